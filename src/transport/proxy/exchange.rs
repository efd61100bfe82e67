//! What is said to a proxy, and what it says.

use std::io;

use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Io;

/// The request for a tunnel to `target`, a host and a port.
pub(super) fn request(
    target: &str,
    user_agent: &HeaderValue,
    authorization: Option<&HeaderValue>,
) -> Vec<u8> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    let fields = [("User-Agent", Some(user_agent)), ("Proxy-Authorization", authorization)];
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        request.extend([name.as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    request.extend(b"\r\n");
    request
}

/// Asks for a tunnel; what is read from `io` afterwards comes out of it.
pub(super) async fn exchange(io: &mut Io, request: &[u8]) -> io::Result<()> {
    io.write_all(request).await?;
    io.flush().await?;
    let mut head = Vec::new();
    // By the byte: what follows the head is the server's, who may speak first. It is a few hundred
    // bytes for a connection that lasts.
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        if head.len() == HEAD_BYTES_MAX {
            let text = format!("its answer has more than {HEAD_BYTES_MAX} bytes of headers");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let text = match head.len() {
                    0 => "it closed the connection without an answer".to_owned(),
                    bytes => format!("it closed the connection after {bytes} bytes of an answer"),
                };
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            Err(error) => return Err(error),
        }
        if !begins_like_http(&head) {
            let text = format!(
                "it does not answer in HTTP, but begins with `{}`",
                String::from_utf8_lossy(&head).escape_debug()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    judge(&head)
}

fn begins_like_http(head: &[u8]) -> bool {
    head.iter().zip(b"HTTP/1.").all(|(byte, expected)| byte == expected)
}

/// Whether an answer with this head grants the tunnel.
fn judge(head: &[u8]) -> io::Result<()> {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    // Version, code and phrase: a proxy may leave the phrase away.
    let said = line.split_once(' ').map_or("", |(_, said)| said.trim());
    let code = said.split(' ').next().and_then(|code| code.parse::<u16>().ok());
    let advice = match code {
        Some(200..=299) => return Ok(()),
        Some(407) => ": give a user and a password in the proxy's URL",
        Some(403) => ": it does not let this client reach the server",
        Some(405 | 501) => ": it tunnels nothing",
        Some(_) | None => "",
    };
    let text = format!("it answered `{}`{advice}", said.escape_debug());
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, text))
}

/// Far more than proxies send, little enough to be held for each dial.
const HEAD_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_server_and_who_asks() {
        let agent = HeaderValue::from_static("switchboard/0");
        let plain = request("greeter:443", &agent, None);
        let expected = "CONNECT greeter:443 HTTP/1.1\r\nHost: greeter:443\r\n\
                        User-Agent: switchboard/0\r\n\r\n";
        assert_eq!(String::from_utf8(plain).unwrap(), expected);
        let proof = HeaderValue::from_static("Basic eDp5");
        let proved = String::from_utf8(request("[::1]:5", &agent, Some(&proof))).unwrap();
        assert!(proved.ends_with("\r\nProxy-Authorization: Basic eDp5\r\n\r\n"), "{proved}");
    }

    #[test]
    fn an_answer_grants_the_tunnel_or_says_why_not() {
        for granted in
            ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200\r\n\r\n", "HTTP/1.1 204 x\nA: b\n\n"]
        {
            judge(granted.as_bytes()).unwrap();
        }
        for (head, told) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "Required`: give a user"),
            ("HTTP/1.1 403 Forbidden\r\nA: 200\r\n\r\n", "`403 Forbidden`: it does not let"),
            ("HTTP/1.1 405 Method Not Allowed\r\n\r\n", "tunnels nothing"),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "it answered `502 Bad Gateway`"),
            ("HTTP/1.1 100 Continue\r\n\r\n", "`100 Continue`"),
            ("HTTP/1.1 2000 x\r\n\r\n", "`2000 x`"),
            ("HTTP/1.1\r\n\r\n", "it answered ``"),
            ("HTTP/1.1 5\u{1b}[31m\r\n\r\n", "`5\\u{1b}[31m`"),
        ] {
            let error = judge(head.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }
}
