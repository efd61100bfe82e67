//! What is said to a proxy, and what it says.

use std::io;
use std::net::Ipv6Addr;

use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Io;
use crate::types::harmless;

/// The request for a tunnel to `target`, a host and a port. Fails where it is none that could stand
/// there: who resolves a name may give any text, and none may end the line or begin a header.
pub(super) fn request(
    target: &str,
    user_agent: &HeaderValue,
    authorization: Option<&HeaderValue>,
) -> io::Result<Vec<u8>> {
    if !is_host_and_port(target) {
        let text = format!(
            "`{}` cannot be asked of a proxy: expected host:port, of a name or an IP address",
            harmless(target)
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    let fields = [("User-Agent", Some(user_agent)), ("Proxy-Authorization", authorization)];
    for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        request.extend([name.as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    request.extend(b"\r\n");
    Ok(request)
}

/// Whether `target` is a name or an IP address and a port, as a URI has them (RFC 3986, without
/// escapes).
fn is_host_and_port(target: &str) -> bool {
    let Some((host, port)) = target.rsplit_once(':') else { return false };
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0) && !port.starts_with('+');
    let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_ip = in_brackets.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=".contains(c);
    let is_name = !host.is_empty() && host.chars().all(legal);
    is_port && (is_ip || is_name)
}

/// Asks for a tunnel; what is read from `io` afterwards comes out of it.
pub(super) async fn exchange(io: &mut Io, request: &[u8]) -> io::Result<()> {
    io.write_all(request).await?;
    io.flush().await?;
    let mut left = HEAD_BYTES_MAX;
    loop {
        let head = head(io, left).await?;
        left -= head.len();
        match judge(&head)? {
            Answer::Granted => return Ok(()),
            Answer::Interim => {}
        }
    }
}

/// Reads the head of an answer, which has `bytes_max` at most.
async fn head(io: &mut Io, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    // By the byte: what follows the head is the server's, who may speak first. It is a few hundred
    // bytes for a connection that lasts.
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        if head.len() == bytes_max {
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
                harmless(&String::from_utf8_lossy(&head))
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    Ok(head)
}

fn begins_like_http(head: &[u8]) -> bool {
    head.iter().zip(b"HTTP/1.").all(|(byte, expected)| byte == expected)
}

/// What an answer says that does not refuse the tunnel.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Granted,
    /// Another one follows, as after `100 Continue`.
    Interim,
}

/// What an answer with this head says.
fn judge(head: &[u8]) -> io::Result<Answer> {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    // Version, code and phrase: a proxy may leave the phrase away.
    let said = line.split_once(' ').map_or("", |(_, said)| said.trim());
    let code = said.split(' ').next().and_then(|code| code.parse::<u16>().ok());
    let advice = match code {
        Some(200..=299) => return Ok(Answer::Granted),
        // Of these one ends the exchange: the proxy speaks something else from there on.
        Some(100..=199) if code != Some(101) => return Ok(Answer::Interim),
        Some(407) => ": give a user and a password in the proxy's URL",
        Some(403) => ": it does not let this client reach the server",
        Some(405 | 501) => ": it tunnels nothing",
        Some(_) | None => "",
    };
    let text = format!("it answered `{}`{advice}", harmless(said));
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
        let plain = request("greeter:443", &agent, None).unwrap();
        let expected = "CONNECT greeter:443 HTTP/1.1\r\nHost: greeter:443\r\n\
                        User-Agent: switchboard/0\r\n\r\n";
        assert_eq!(String::from_utf8(plain).unwrap(), expected);
        let proof = HeaderValue::from_static("Basic eDp5");
        let proved = request("[::1]:5", &agent, Some(&proof)).unwrap();
        let proved = String::from_utf8(proved).unwrap();
        assert!(proved.ends_with("\r\nProxy-Authorization: Basic eDp5\r\n\r\n"), "{proved}");
    }

    // What stands in a request is written once, for the line and for the header.
    #[test]
    fn a_name_that_would_begin_a_header_is_not_asked_for() {
        let agent = HeaderValue::from_static("switchboard/0");
        let fits = |target: &str| request(target, &agent, None).is_ok();
        for target in ["greeter.example:443", "10.0.0.7:1", "[2001:db8::7]:65535", "a_b-c:80"] {
            assert!(fits(target), "{target}");
        }
        for target in [
            "greeter:443\r\nX-Forged: 1",
            "greeter\r\nX: 1\r\n:443",
            "greeter\n:443",
            "greeter :443",
            "a b:443",
            "greeter:443 HTTP/1.1",
            "greeter:443\t",
            "gr\u{e9}eter:443",
            "greeter\0:443",
            "user@greeter:443",
            "greeter/x:443",
            "greeter",
            "greeter:",
            ":443",
            "greeter:0",
            "greeter:+1",
            "greeter:99999",
            "::1:443",
            "[::1:443",
            "[greeter]:443",
            "",
        ] {
            let error = request(target, &agent, None).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{target}");
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn an_interim_answer_decides_nothing() {
        for head in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]
        {
            assert_eq!(judge(head.as_bytes()).unwrap(), Answer::Interim);
        }
    }

    #[test]
    fn an_answer_grants_the_tunnel_or_says_why_not() {
        for granted in
            ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 200\r\n\r\n", "HTTP/1.1 204 x\nA: b\n\n"]
        {
            assert_eq!(judge(granted.as_bytes()).unwrap(), Answer::Granted);
        }
        for (head, told) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "Required`: give a user"),
            ("HTTP/1.1 403 Forbidden\r\nA: 200\r\n\r\n", "`403 Forbidden`: it does not let"),
            ("HTTP/1.1 405 Method Not Allowed\r\n\r\n", "tunnels nothing"),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "it answered `502 Bad Gateway`"),
            ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "`101 Switching Protocols`"),
            ("HTTP/1.1 2000 x\r\n\r\n", "`2000 x`"),
            ("HTTP/1.1\r\n\r\n", "it answered ``"),
            ("HTTP/1.1 5\u{1b}[31m\r\n\r\n", "`5\\u{1b}[31m`"),
        ] {
            let error = judge(head.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }
}
