//! A proxy that tunnels connections, or does not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What a proxy does about a request.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// Connects to this server, whatever was asked for.
    LeadsTo(SocketAddr),
    /// The same, and has the server's first bytes follow its answer in one piece.
    LeadsAtOnceTo(SocketAddr),
    /// The same, and has two interim answers come first.
    LeadsAfterInterimAnswersTo(SocketAddr),
    /// The same, if the request comes with `user` and `p:a ss`.
    LeadsKnownOnesTo(SocketAddr),
    /// Says this and closes the connection.
    Says(&'static str),
    /// Says nothing.
    IsSilent,
}

/// A proxy of HTTP CONNECT that writes down what it is asked for.
pub(crate) struct HttpProxy {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl HttpProxy {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let task = tokio::spawn({
            let requests = requests.clone();
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(manner, stream, requests.clone()));
                }
            }
        });
        Self { address, requests, task: task.abort_handle() }
    }

    /// The host and port that clients connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The client may go at any time.
async fn serve(manner: Manner, stream: TcpStream, requests: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !stream.read_line(&mut head).await.is_ok_and(|bytes| bytes > 0) {
            return;
        }
    }
    requests.lock().unwrap().push(head.clone());
    // `user:p:a ss`
    let known = head.contains("\r\nProxy-Authorization: Basic dXNlcjpwOmEgc3M=\r\n");
    let server = match manner {
        Manner::LeadsTo(server)
        | Manner::LeadsAtOnceTo(server)
        | Manner::LeadsAfterInterimAnswersTo(server) => server,
        Manner::LeadsKnownOnesTo(server) if known => server,
        Manner::LeadsKnownOnesTo(_) => {
            let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
            let _ = stream.write_all(refusal.as_bytes()).await;
            return;
        }
        Manner::Says(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            return;
        }
        Manner::IsSilent => std::future::pending().await,
    };
    let mut server = TcpStream::connect(server).await.unwrap();
    let mut answer = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n".to_vec();
    if matches!(manner, Manner::LeadsAfterInterimAnswersTo(_)) {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n";
        answer.splice(0..0, interim.iter().copied());
    }
    if matches!(manner, Manner::LeadsAtOnceTo(_)) {
        server.read_buf(&mut answer).await.unwrap();
    }
    let _ = stream.write_all(&answer).await;
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
}
