//! From a fresh socket to a session: the startup message, and who asks.
//!
//! | asks for | answer |
//! |---|---|
//! | nothing (trust, peer, cert) | - |
//! | the password as it is | that |
//! | md5 | of password, user and salt |
//! | SASL | SCRAM-SHA-256: both sides prove that they know the password |

use std::time::Duration;

use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::frontend,
};

use crate::replication::{
    error::{Error, Result},
    info::ConnectionInfo,
    message::{self, Body, Malformed},
    wire::{Deadline, Frame, Wire},
};

/// What a server said while it let someone in.
#[derive(Debug, Default)]
pub(super) struct Welcome {
    pub(super) server_version: String,
}

/// What a server asks for.
enum Request {
    Nothing,
    Password,
    Md5([u8; 4]),
    /// Whether SCRAM-SHA-256 is among what can be chosen.
    Sasl(bool),
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    Other(u32),
}

impl Request {
    fn read(mut body: Body<'_>) -> std::result::Result<Request, Malformed> {
        let request = match body.u32("request")? {
            0 => Request::Nothing,
            3 => Request::Password,
            5 => Request::Md5(body.salt()?),
            10 => {
                let mut is_known = false;
                loop {
                    match body.text("mechanism")? {
                        [] => break,
                        mechanism => is_known |= mechanism == SCRAM_SHA_256.as_bytes(),
                    }
                }
                Request::Sasl(is_known)
            }
            11 => return Ok(Request::SaslContinue(body.rest().to_vec())),
            12 => return Ok(Request::SaslFinal(body.rest().to_vec())),
            other => return Ok(Request::Other(other)),
        };
        body.end()?;
        Ok(request)
    }
}

/// How far the proof of who asks has come.
enum Proof {
    Open,
    Scram(Box<ScramSha256>),
    Given,
}

/// Logs in, all of it within `timeout`.
pub(super) fn log_in(wire: &mut Wire, info: &ConnectionInfo, timeout: Duration) -> Result<Welcome> {
    let deadline = Deadline::after(timeout);
    let parameters = [
        ("user", info.user()),
        ("replication", "true"),
        ("application_name", info.application_name()),
        ("client_encoding", "UTF8"),
    ];
    wire.send(|out| frontend::startup_message(parameters, out))?;
    let mut proof = Proof::Open;
    loop {
        let frame = wire.expect(deadline)?;
        if frame.tag != message::AUTHENTICATION {
            return Err(wire.unexpected(&frame, "Authentication"));
        }
        let request = Request::read(wire.body(&frame)).map_err(|wrong| wire.protocol(wrong))?;
        match answer(wire, info, proof, request)? {
            Some(next) => proof = next,
            None => return greet(wire, deadline),
        }
    }
}

/// Answers a request; none if the server lets us in.
fn answer(
    wire: &mut Wire,
    info: &ConnectionInfo,
    proof: Proof,
    request: Request,
) -> Result<Option<Proof>> {
    let to = wire.to().to_owned();
    let failed = |reason: String| Error::Authentication {
        to: to.clone(),
        user: info.user().to_owned(),
        reason,
    };
    let password = || {
        info.password().ok_or_else(|| failed("the server wants a password, none is given".into()))
    };
    Ok(Some(match (proof, request) {
        (Proof::Open | Proof::Given, Request::Nothing) => return Ok(None),
        (Proof::Open, Request::Password) => {
            let password = password()?;
            wire.send(|out| frontend::password_message(password.as_bytes(), out))?;
            Proof::Given
        }
        (Proof::Open, Request::Md5(salt)) => {
            let hash = md5_hash(info.user().as_bytes(), password()?.as_bytes(), salt);
            wire.send(|out| frontend::password_message(hash.as_bytes(), out))?;
            Proof::Given
        }
        (Proof::Open, Request::Sasl(true)) => {
            let password = password()?.as_bytes();
            let scram = Box::new(ScramSha256::new(password, ChannelBinding::unsupported()));
            wire.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out))?;
            Proof::Scram(scram)
        }
        (Proof::Scram(mut scram), Request::SaslContinue(data)) => {
            scram.update(&data).map_err(|error| failed(format!("SCRAM-SHA-256: {error}")))?;
            wire.send(|out| frontend::sasl_response(scram.message(), out))?;
            Proof::Scram(scram)
        }
        (Proof::Scram(mut scram), Request::SaslFinal(data)) => {
            // The server's own proof: without it, this is another server.
            scram.finish(&data).map_err(|error| failed(format!("SCRAM-SHA-256: {error}")))?;
            Proof::Given
        }
        (_, Request::Sasl(false)) => {
            return Err(failed(
                "the server offers no SASL mechanism that is known here: SCRAM-SHA-256".to_owned(),
            ));
        }
        (_, Request::Other(code)) => return Err(failed(unsupported(code))),
        _ => return Err(failed("the server's requests are out of order".to_owned())),
    }))
}

fn unsupported(code: u32) -> String {
    let name = match code {
        2 => "Kerberos V5",
        6 => "SCM credentials",
        7 | 8 => "GSSAPI",
        9 => "SSPI",
        _ => return format!("the server wants a method that is not known here, number {code}"),
    };
    format!("the server wants {name}, which is not supported")
}

/// Reads what a server says before it is ready.
fn greet(wire: &mut Wire, deadline: Deadline) -> Result<Welcome> {
    let mut welcome = Welcome::default();
    loop {
        let frame = wire.expect(deadline)?;
        match frame.tag {
            message::PARAMETER => {
                let (name, value) =
                    parameter(wire, &frame).map_err(|malformed| wire.protocol(malformed))?;
                if name == "server_version" {
                    welcome.server_version = value;
                }
            }
            message::CANCEL_KEY => {}
            message::READY => return Ok(welcome),
            _ => return Err(wire.unexpected(&frame, "ParameterStatus or ReadyForQuery")),
        }
    }
}

fn parameter(wire: &Wire, frame: &Frame) -> std::result::Result<(String, String), Malformed> {
    let mut body = wire.body(frame);
    let name = String::from_utf8_lossy(body.text("name")?).into_owned();
    let value = String::from_utf8_lossy(body.text("value")?).into_owned();
    body.end()?;
    Ok((name, value))
}
