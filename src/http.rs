//! Requests by HTTP/1.1 (RFC 9112) at a loopback address, as far as sv3 reads them: a method, a path and the host.
//!
//! A web page in a browser of this machine might send requests too: its host name may resolve to loopback (DNS
//! rebinding). So a request must name a loopback host.

use std::net::{IpAddr, SocketAddr};

/// Most octets of a request.
pub const REQUEST_MAX: usize = 8192;
/// Status of the answer to a request for another host.
pub const MISDIRECTED: &str = "421 Misdirected Request";
/// Status of the answer to what asks for nothing that is there.
pub const NOT_FOUND: &str = "404 Not Found";
/// Status of the answer to a request that does not only read.
pub const NOT_ALLOWED: &str = "405 Method Not Allowed";

/// A request that only reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// By `HEAD`: the answer without its body. Else by `GET`.
    pub is_head: bool,
    /// What is asked for, as it was sent, without a query.
    pub path: String,
}

/// Reads the address to listen at. Only loopback addresses are allowed.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let hint = "give one as 127.0.0.1:PORT or [::1]:PORT";
    let address: SocketAddr = text.parse().map_err(|_| format!("{text:?} is not an address and a port; {hint}"))?;
    match address.ip().to_canonical().is_loopback() {
        true => Ok(address),
        false => Err(format!("{text} is not a loopback address, and sv3 tells other machines nothing; {hint}")),
    }
}

/// The request, once its head is complete; or the status of the answer to one that is refused.
pub fn read_request(heard: &[u8]) -> Option<Result<Request, &'static str>> {
    let ends = |mark: &[u8]| heard.windows(mark.len()).any(|window| window == mark);
    if !ends(b"\r\n\r\n") && !ends(b"\n\n") {
        return (heard.len() > REQUEST_MAX).then_some(Err("431 Request Header Fields Too Large"));
    }
    let head = String::from_utf8_lossy(heard);
    let mut lines = head.lines();
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else { return Some(Err("400 Bad Request")) };
    if !version.starts_with("HTTP/1.") {
        return Some(Err("400 Bad Request"));
    }
    let fields = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let hosts: Vec<&str> = fields.filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, host)| host).collect();
    Some(match hosts[..] {
        // RFC 9112, 3.2: HTTP/1.1 needs a `Host`. No browser sends HTTP/1.0 or leaves the host out.
        [] if version != "HTTP/1.0" => Err("400 Bad Request"),
        [_, _, ..] => Err("400 Bad Request"),
        [host] if !is_loopback(host.trim()) => Err(MISDIRECTED),
        _ if method == "GET" || method == "HEAD" => {
            let path = target.split('?').next().unwrap_or_default().to_string();
            Ok(Request { is_head: method == "HEAD", path })
        }
        _ => Err(NOT_ALLOWED),
    })
}

/// Whether a `Host`, with or without a port, is a loopback name or address.
fn is_loopback(host: &str) -> bool {
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|octet| octet.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_address = |ip: IpAddr| ip.to_canonical().is_loopback() && (ip.is_ipv4() || address != name);
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_taken() {
        for good in ["127.0.0.1:9109", "127.8.9.1:1", "[::1]:0", "[::ffff:127.0.0.1]:80"] {
            assert!(parse_address(good).is_ok(), "{good}");
        }
        for far in ["0.0.0.0:9109", "[::]:9109", "192.168.1.1:80", "[::ffff:10.0.0.1]:80"] {
            assert!(parse_address(far).unwrap_err().contains("not a loopback address"), "{far}");
        }
        for wrong in ["9109", "localhost:9109", "127.0.0.1", "127.0.0.1:99999", ""] {
            assert!(parse_address(wrong).unwrap_err().contains("127.0.0.1:PORT"), "{wrong}");
        }
    }

    #[test]
    fn a_request_has_a_path_and_its_query_is_left_out() {
        let read = |line: &str| read_request(format!("{line} HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").as_bytes());
        let request = |is_head, path: &str| Some(Ok(Request { is_head, path: path.to_string() }));
        assert_eq!(read("GET /a/../b?c=d?e"), request(false, "/a/../b"));
        assert_eq!(read("HEAD ?x"), request(true, ""));
        assert_eq!(read("PUT /"), Some(Err(NOT_ALLOWED)));
        assert_eq!(read_request(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"), Some(Err(MISDIRECTED)));
        assert_eq!(read_request(b"GET / HTTP/1.1\r\nHost: localhost\r\n"), None);
    }
}
