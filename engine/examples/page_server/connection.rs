//! [`Connection`]: one client, from its greeting to its end.

use std::{
    future::Future,
    ops::Deref,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use pagestrata::{Error, Lsn, ReadStats, Ready, Scratch, Snapshot, Timeline};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
};

use crate::{
    AnyError, Patch,
    frame::{GREETING_LEN, Request, Source, Status, Welcome},
    metrics::{InFlight, Metrics},
    server_frame::{encode_response, encode_welcome, refuse_greeting},
};

/// How long the server waits when it stops: for clients to take their answers; and, at any time,
/// for an Lsn to be written.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// An answer and what its request has taken, which goes when it is written.
type Answer = (Vec<u8>, OwnedSemaphorePermit, InFlight);

/// What a connection needs to answer its client.
pub(crate) struct Connection {
    pub(crate) timeline: Timeline,
    pub(crate) metrics: Arc<Metrics>,
    /// Taken by each request, given back when its answer is written.
    pub(crate) in_flight: Arc<Semaphore>,
    /// How many permits that has.
    pub(crate) requests_max: usize,
    pub(crate) unchecked: bool,
    pub(crate) idle_timeout: Duration,
    pub(crate) request_timeout: Duration,
}

/// Tells a client that there is no room for it. Takes no longer than a moment.
pub(crate) async fn turn_away(mut stream: TcpStream, text: &str) {
    let welcome = encode_welcome(Welcome::NoRoom, text);
    let talk = async {
        stream.write_all(&welcome).await?;
        stream.shutdown().await?;
        // What it has sent is read: a socket that is closed with unread bytes resets the
        // connection, and the text is lost.
        while stream.read(&mut [0; 256]).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), talk).await;
}

/// Counts an open connection for as long as it is kept.
struct Open(Arc<Metrics>);

impl Open {
    fn count(metrics: &Arc<Metrics>) -> Open {
        metrics.accepted.fetch_add(1, Relaxed);
        metrics.connections.fetch_add(1, Relaxed);
        Open(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

impl Connection {
    /// Answers requests until there are no more, or it is told to stop; then what is under way.
    pub(crate) async fn serve(
        self,
        stream: TcpStream,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), AnyError> {
        let _open = Open::count(&self.metrics);
        stream.set_nodelay(true)?;
        let (input, mut output) = stream.into_split();
        let mut input = BufReader::new(input);
        if !self.greet(&mut input, &mut output).await? {
            return Ok(());
        }
        let (answers, to_write) = mpsc::channel(64);
        let mut writer = tokio::spawn(write_answers(output, to_write, self.request_timeout));
        // A client that does not take its answers is not listened to either.
        let read = tokio::select! {
            read = self.answer_all(&mut input, answers, stopped) => read,
            written = &mut writer => return self.written(written),
        };
        // All tasks have a sender of their own: the writer ends behind the last answer.
        // When it has ended before that, its error is why no more answers could be sent.
        self.written(writer.await).and(read)
    }

    fn written(
        &self,
        written: Result<std::io::Result<()>, tokio::task::JoinError>,
    ) -> Result<(), AnyError> {
        match written? {
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                self.metrics.timed_out.fetch_add(1, Relaxed);
                Err(format!("it has not taken its answers for {:?}", self.request_timeout).into())
            }
            other => Ok(other?),
        }
    }

    /// What `future` returns, or an error that says what the client has not done in time.
    async fn within<T>(
        &self,
        what: &str,
        future: impl Future<Output = std::io::Result<T>>,
    ) -> Result<T, AnyError> {
        match tokio::time::timeout(self.request_timeout, future).await {
            Ok(done) => Ok(done?),
            Err(_) => {
                self.metrics.timed_out.fetch_add(1, Relaxed);
                Err(format!("{what} was not complete in {:?}", self.request_timeout).into())
            }
        }
    }

    /// Whether the client speaks the protocol; tells it.
    async fn greet(
        &self,
        input: &mut BufReader<OwnedReadHalf>,
        output: &mut OwnedWriteHalf,
    ) -> Result<bool, AnyError> {
        let mut greeting = [0; GREETING_LEN];
        self.within("its greeting", input.read_exact(&mut greeting)).await?;
        let refused = refuse_greeting(&greeting);
        let welcome = match &refused {
            None => encode_welcome(Welcome::Accepted, ""),
            Some(text) => encode_welcome(Welcome::OtherProtocol, text),
        };
        self.within("taking the greeting", output.write_all(&welcome)).await?;
        match refused {
            None => Ok(true),
            Some(text) => {
                output.shutdown().await?;
                // As in `turn_away`.
                let rest = async {
                    while input.read(&mut [0; 256]).await? > 0 {}
                    Ok(())
                };
                self.within("closing the connection", rest).await?;
                Err(text.into())
            }
        }
    }

    async fn answer_all(
        &self,
        input: &mut BufReader<OwnedReadHalf>,
        answers: mpsc::Sender<Answer>,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), AnyError> {
        let (mut scratch, mut snapshot) = (Scratch::new(), self.timeline.snapshot());
        let mut counted = ReadStats::default();
        loop {
            if !self.wait_for_request(input, &mut stopped, &mut snapshot).await? {
                return Ok(());
            }
            let mut bytes = [0; Request::LEN];
            self.within("a request", input.read_exact(&mut bytes)).await?;
            let permit = self.in_flight.clone().acquire_owned().await?;
            let in_flight = self.metrics.begin();
            let request = Request::decode(&bytes);
            let newest = self.timeline.last_record_lsn();
            let lsn = if request.lsn.is_valid() { request.lsn } else { newest };
            if lsn > snapshot.lsn() && lsn <= newest {
                snapshot = self.timeline.snapshot();
            }
            // Whatever can be answered at once is.
            let answer = match self.try_answer(&request, lsn, &snapshot, &mut scratch) {
                Some(answer) => answer,
                None => {
                    self.metrics.cold.fetch_add(1, Relaxed);
                    let (timeline, snapshot) = (self.timeline.clone(), snapshot.clone());
                    let answers = answers.clone();
                    let _task: JoinHandle<()> = tokio::spawn(async move {
                        let answer = answer_later(&request, lsn, &timeline, snapshot).await;
                        in_flight.answered(Source::Cold);
                        // Fails when the client is gone.
                        let _ = answers.send((answer, permit, in_flight)).await;
                    });
                    continue;
                }
            };
            in_flight.answered(self.source());
            answers.send((answer, permit, in_flight)).await?;
            let all = scratch.all_reads();
            self.metrics.add_reads(&all, &std::mem::replace(&mut counted, all));
        }
    }

    /// Waits until a request has begun. False: there will be none.
    async fn wait_for_request(
        &self,
        input: &mut BufReader<OwnedReadHalf>,
        stopped: &mut watch::Receiver<bool>,
        snapshot: &mut Snapshot,
    ) -> Result<bool, AnyError> {
        let idle = tokio::time::sleep(self.idle_timeout);
        let mut idle = std::pin::pin!(idle);
        loop {
            // Waiting here loses nothing of a request that has come in part.
            tokio::select! {
                filled = input.fill_buf() => return Ok(!filled?.is_empty()),
                _ = stopped.changed() => return Ok(false),
                () = &mut idle => {
                    // A client that waits for an answer is not idle.
                    if self.in_flight.available_permits() == self.requests_max {
                        self.metrics.timed_out.fetch_add(1, Relaxed);
                        return Err(format!("it has asked for nothing for {:?}", self.idle_timeout).into());
                    }
                    idle.as_mut().reset(tokio::time::Instant::now() + self.idle_timeout);
                }
                // A client that asks for nothing holds no layer that others have done with.
                () = tokio::time::sleep(Duration::from_secs(1)) => *snapshot = self.timeline.snapshot(),
            }
        }
    }

    /// Of an answer that nothing was waited for.
    fn source(&self) -> Source {
        if self.unchecked { Source::Unknown } else { Source::Warm }
    }

    /// The answer, if nothing has to be waited for.
    fn try_answer(
        &self,
        request: &Request,
        lsn: Lsn,
        snapshot: &Snapshot,
        scratch: &mut Scratch,
    ) -> Option<Vec<u8>> {
        if lsn > snapshot.lsn() {
            return None;
        }
        let (guard, source) = (snapshot.guard(), self.source());
        if self.unchecked {
            let page = guard.page(request.key, lsn, &Patch, scratch);
            return Some(encode(request.id, source, page));
        }
        match guard.try_page(request.key, lsn, &Patch, scratch) {
            Ok(Ready::Hit(page)) => Some(encode(request.id, source, Ok(page))),
            Ok(Ready::Cold(..)) => None,
            Err(error) => Some(encode(request.id, source, Err::<&[u8], _>(error))),
        }
    }
}

/// The answer to a request that has to wait: for its Lsn, for a device.
async fn answer_later(
    request: &Request,
    lsn: Lsn,
    timeline: &Timeline,
    mut snapshot: Snapshot,
) -> Vec<u8> {
    if lsn > snapshot.lsn() {
        // An Lsn that never comes is answered too.
        let _ = tokio::time::timeout(PATIENCE, timeline.wait_for(lsn)).await;
        match timeline.snapshot_at(lsn) {
            Ok(at) => snapshot = at,
            Err(error) => return encode(request.id, Source::Cold, Err::<&[u8], _>(error)),
        }
    }
    let mut scratch = Scratch::new();
    let page = snapshot.guard().page_async(request.key, lsn, &Patch, &mut scratch).await;
    encode(request.id, Source::Cold, page)
}

fn encode(id: u64, source: Source, page: Result<impl Deref<Target = [u8]>, Error>) -> Vec<u8> {
    match page {
        Ok(page) => encode_response(id, Status::Page, source, &page),
        Err(Error::NoPage { .. }) => encode_response(id, Status::NoPage, source, b""),
        Err(error) => encode_response(id, Status::Failed, source, error.to_string().as_bytes()),
    }
}

/// Writes answers, as many at a time as there are. A client has to take some of them within the
/// time-out.
async fn write_answers(
    mut output: OwnedWriteHalf,
    mut answers: mpsc::Receiver<Answer>,
    timeout: Duration,
) -> std::io::Result<()> {
    let (mut waiting, mut bytes) = (Vec::new(), Vec::new());
    while answers.recv_many(&mut waiting, 64).await > 0 {
        bytes.clear();
        waiting.iter().for_each(|(answer, ..)| bytes.extend_from_slice(answer));
        tokio::time::timeout(timeout, output.write_all(&bytes)).await??;
        waiting.clear();
    }
    Ok(())
}
