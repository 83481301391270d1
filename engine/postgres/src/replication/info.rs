//! [`ConnectionInfo`]: which server, and as whom.
//!
//! `key=value` pairs with blanks between them, as in "Connection Strings" of PostgreSQL's manual: a
//! value with blanks in it stands in single quotes, and a backslash takes the next character as it
//! is. What is not known is refused, not ignored: an option such as `sslmode=verify-full` is a
//! promise.

use std::{fmt, path::Path, str::FromStr, time::Duration};

use crate::replication::error::{Error, Result};

const PORT: u16 = 5432;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KNOWN: &str =
    "host, port, user, password, application_name, connect_timeout, sslmode=disable or dbname";

/// Where a server is, and who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    host: String,
    port: u16,
    user: String,
    password: Option<String>,
    application_name: String,
    connect_timeout: Duration,
}

impl ConnectionInfo {
    /// A host's name or address, or the directory of a socket, which starts with a slash.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Which port, of the host or in the socket's name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who asks.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// How the server's views call the one who asks, and `synchronous_standby_names` as well.
    #[must_use]
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// Whether a password was given.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The same with this password, which then does not have to be in the text.
    #[must_use]
    pub fn with_password(self, password: impl Into<String>) -> ConnectionInfo {
        ConnectionInfo { password: Some(password.into()), ..self }
    }

    pub(super) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    pub(super) fn is_socket(&self) -> bool {
        Path::new(&self.host).is_absolute()
    }

    fn set(&mut self, option: &str, value: String) -> Result<()> {
        let wrong = |expected, found: String| {
            Err(Error::ConnectionInfo { option: option.to_owned(), expected, found })
        };
        if value.contains('\0') {
            return wrong("no zero byte", "one".to_owned());
        }
        match option {
            "host" if value.is_empty() || value.contains(',') => {
                return wrong("one name, address or absolute directory", format!("{value:?}"));
            }
            "host" => self.host = value,
            "port" => match value.parse() {
                Ok(port) if port != 0 => self.port = port,
                _ => return wrong("1 to 65535", format!("{value:?}")),
            },
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "application_name" => self.application_name = value,
            "connect_timeout" => match value.parse::<u32>() {
                Ok(seconds @ 1..=86_400) => {
                    self.connect_timeout = Duration::from_secs(seconds.into());
                }
                _ => return wrong("1 to 86400 seconds", format!("{value:?}")),
            },
            // Nothing is encrypted here, and whoever asks for less than `disable` may want it to
            // be.
            "sslmode" if value == "disable" => {}
            "sslmode" => return wrong("disable: TLS is not supported", format!("{value:?}")),
            // Physical replication is of all databases.
            "dbname" => {}
            _ => return wrong(KNOWN, "an option that is not supported".to_owned()),
        }
        Ok(())
    }
}

/// Without the password.
impl fmt::Debug for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionInfo({self} as {:?})", self.user)
    }
}

/// Where the server is.
impl fmt::Display for ConnectionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConnectionInfo { host, port, .. } = self;
        match self.is_socket() {
            true => write!(f, "{}/.s.PGSQL.{port}", host.trim_end_matches('/')),
            false if host.contains(':') => write!(f, "[{host}]:{port}"),
            false => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for ConnectionInfo {
    type Err = Error;

    fn from_str(text: &str) -> Result<ConnectionInfo> {
        let mut info = ConnectionInfo {
            host: "localhost".to_owned(),
            port: PORT,
            user: String::new(),
            password: None,
            application_name: "pagestrata".to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
        };
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let option;
            (option, rest) = take_option(rest)?;
            let value;
            (value, rest) = take_value(option, rest)?;
            info.set(option, value)?;
            rest = rest.trim_start();
        }
        if info.user.is_empty() {
            let (option, found) = ("user".to_owned(), "none".to_owned());
            return Err(Error::ConnectionInfo { option, expected: "a name", found });
        }
        Ok(info)
    }
}

/// An option's name, and what is behind its equals sign.
fn take_option(text: &str) -> Result<(&str, &str)> {
    let end = text.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(text.len());
    let (option, rest) = text.split_at(end);
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    if option.is_empty() || !option.chars().all(is_name) {
        // It may be a part of a password that should have been quoted, or a URI with one in it: it
        // is not shown.
        let (option, found) = (String::new(), "something else".to_owned());
        let expected = "key=value pairs with blanks between them";
        return Err(Error::ConnectionInfo { option, expected, found });
    }
    match rest.trim_start().strip_prefix('=') {
        Some(rest) => Ok((option, rest.trim_start())),
        None => {
            let (option, found) = (option.to_owned(), "none".to_owned());
            Err(Error::ConnectionInfo { option, expected: "an equals sign behind it", found })
        }
    }
}

/// An option's value, and what is behind it.
fn take_value<'a>(option: &str, text: &'a str) -> Result<(String, &'a str)> {
    let (is_quoted, text) = match text.strip_prefix('\'') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if is_quoted => return Ok((value, &text[at + 1..])),
            c if c.is_whitespace() && !is_quoted => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    if is_quoted {
        let (expected, found) = ("a closing quote", "the end".to_owned());
        return Err(Error::ConnectionInfo { option: option.to_owned(), expected, found });
    }
    Ok((value, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_libpq_does() {
        let text = r" host = /run/pg port=5433 user='o''brien' ";
        assert!(text.parse::<ConnectionInfo>().is_err(), "a quote is escaped by a backslash alone");
        let text = r" host = /run/pg port=5433 user='o\'b \\' password=a\ b application_name='' dbname=x sslmode=disable";
        let info: ConnectionInfo = text.parse().unwrap();
        assert_eq!((info.host(), info.port(), info.user()), ("/run/pg", 5433, r"o'b \"));
        assert_eq!((info.password(), info.application_name()), (Some("a b"), ""));
        assert_eq!(info.to_string(), "/run/pg/.s.PGSQL.5433");
        assert!(!format!("{info:?}").contains("a b"));
        let info: ConnectionInfo = "user=me host=::1".parse().unwrap();
        assert_eq!(info.to_string(), "[::1]:5432");
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (text, message) in [
            ("user=a sslmode=require", "\"sslmode\""),
            ("user=a options=-cwork_mem=1", "\"options\""),
            ("user=a host=a,b", "\"host\""),
            ("user=a port=0", "\"port\""),
            ("user=a port=70000", "\"port\""),
            ("user=a connect_timeout=x", "\"connect_timeout\""),
            ("host=a", "\"user\""),
            ("user", "\"user\""),
            ("user='a", "\"user\""),
            ("user=a password=in sight", "\"sight\""),
        ] {
            let error = text.parse::<ConnectionInfo>().unwrap_err().to_string();
            assert!(error.contains(message), "{text:?}: {error}");
        }
        let error = "postgres://me:secret@host/".parse::<ConnectionInfo>().unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }
}
