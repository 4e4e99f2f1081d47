//! One question after another on a unix socket, in HTTP, with limits: the other side may be silent,
//! lie, or never stop.

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{Request, StatusCode, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Most bytes of one answer.
pub(super) const MOST_BYTES: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Connect(io::Error),
    #[error("{0}")]
    Broken(hyper::Error),
    #[error("its answer is no HTTP")]
    NoHttp,
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("its answer is longer than {} MiB", MOST_BYTES >> 20)]
    TooLong,
    #[error("its answer is not as expected ({0})")]
    Strange(serde_json::Error),
}

impl Failure {
    /// What to do about it.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Connect(e) if e.kind() == io::ErrorKind::PermissionDenied => "run as root",
            Self::Connect(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                "start it, or remove the socket"
            }
            _ => "look at its log",
        }
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() { Self::NoHttp } else { Self::Broken(error) }
    }
}

/// A connection to a runtime.
pub(super) struct Client {
    send: http1::SendRequest<Empty<Bytes>>,
    /// Whether process ids mean the same to it as to us.
    pub shares_pids: bool,
}

impl Client {
    /// Connects. To be called, and used, inside one tokio runtime.
    pub(super) async fn connect(socket: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(socket).await.map_err(Failure::Connect)?;
        let shares_pids = shares_pids(&stream);
        let (send, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its last request; how, that request tells.
        tokio::spawn(connection);
        Ok(Self { send, shares_pids })
    }

    /// `GET`, and the answer as JSON.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let request = Request::get(path).header(HOST, "localhost").body(Empty::new());
        let request = request.map_err(|_| Failure::NoHttp)?;
        self.send.ready().await?;
        let answer = self.send.send_request(request).await?;
        if !answer.status().is_success() {
            return Err(Failure::Refused(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => Failure::from(*error),
            Err(error) if error.is::<LengthLimitError>() => Failure::TooLong,
            Err(_) => Failure::NoHttp,
        })?;
        serde_json::from_slice(&body.to_bytes()).map_err(Failure::Strange)
    }
}

/// The kernel tells the process at the other end, as we see it: 0 when we do not.
fn shares_pids(stream: &UnixStream) -> bool {
    let inode = |pid: &str| Some(std::fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?.ino());
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
    peer.is_some_and(|pid| inode(&pid.to_string()).is_some_and(|its| Some(its) == inode("self")))
}

/// A piece of a path, with what would end it written in `%` and digits.
pub(super) fn quoted(piece: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    piece.bytes().fold(String::new(), |mut out, byte| {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}
