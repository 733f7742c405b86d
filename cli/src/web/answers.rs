//! What the page server answers.

use std::rc::Rc;
use std::time::Duration;

use sv3::http::{MISDIRECTED, NOT_ALLOWED, NOT_FOUND, Request};

use super::asker::Question;
use super::token::{LENGTH, Token};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Fields of every answer. Nothing but the page's own files is loaded, by nobody but the page; nothing is kept, and the
/// address, which has the token, is told to nobody.
const FIELDS: &str = "Cache-Control: no-store\r\n\
    Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    Cross-Origin-Opener-Policy: same-origin\r\n\
    Cross-Origin-Resource-Policy: same-origin\r\n\
    Referrer-Policy: no-referrer\r\n\
    X-Content-Type-Options: nosniff\r\n\
    X-Frame-Options: DENY\r\n\
    Connection: close\r\n";

/// An answer, ready to be sent.
pub struct Answer {
    /// The head.
    pub head: Vec<u8>,
    /// What follows. Answers to several requests may share it.
    pub body: Rc<[u8]>,
}

/// What is to be done about a request.
pub enum Todo {
    /// Send this.
    Answer(Answer),
    /// Ask the switch.
    Ask(Question),
}

/// What the switch answered, or why it did not.
pub type Told = Result<Rc<[u8]>, Rc<[u8]>>;

/// Reads a request, or why it is refused.
pub fn todo(request: Result<Request, &'static str>, token: &Token) -> Todo {
    let path = match request {
        Ok(Request { is_head: true, .. }) => return Todo::Answer(refusal(NOT_ALLOWED)),
        Ok(request) => request.path,
        Err(status) => return Todo::Answer(refusal(status)),
    };
    let octets = path.as_bytes();
    let given = octets.get(1..=LENGTH).unwrap_or_default();
    // The token first: without it, nobody learns which files there are.
    if !token.is(given) || octets.first() != Some(&b'/') {
        return Todo::Answer(refusal(NOT_FOUND));
    }
    let file = |kind, text: &str| Todo::Answer(answer("200 OK", kind, text.as_bytes().into()));
    match octets.get(1 + LENGTH..).unwrap_or_default() {
        b"/" => file(HTML, PAGE),
        b"/page.css" => file("text/css; charset=utf-8", STYLE),
        b"/page.js" => file("text/javascript; charset=utf-8", SCRIPT),
        b"/status" => Todo::Ask(Question::Status),
        b"/crashes" => Todo::Ask(Question::Crashes),
        _ => Todo::Answer(refusal(NOT_FOUND)),
    }
}

/// The answer that has the switch's, and how old that is: the page makes rates of it.
pub fn of_switch(told: &Told, age: Duration) -> Answer {
    let age = format!("X-Age-Ms: {}\r\n", age.as_millis());
    match told {
        Ok(json) => answer_with("200 OK", JSON, &age, json.clone()),
        Err(problem) => answer_with("503 Service Unavailable", TEXT, &age, problem.clone()),
    }
}

fn refusal(status: &str) -> Answer {
    let hint = match status {
        MISDIRECTED => "ask for localhost, 127.0.0.1 or [::1]",
        _ => "`sv3 web` has printed the page's address",
    };
    answer(status, TEXT, format!("{status}; {hint}\n").into_bytes().into())
}

fn answer(status: &str, kind: &str, body: Rc<[u8]>) -> Answer {
    let allow = if status == NOT_ALLOWED { "Allow: GET\r\n" } else { "" };
    answer_with(status, kind, allow, body)
}

/// An answer with one more field.
fn answer_with(status: &str, kind: &str, field: &str, body: Rc<[u8]>) -> Answer {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{field}{FIELDS}\r\n");
    Answer { head: head.into_bytes(), body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method_is_head: bool, path: &str, token: &Token) -> String {
        match todo(Ok(Request { is_head: method_is_head, path: path.to_string() }), token) {
            Todo::Ask(question) => format!("{question:?}"),
            Todo::Answer(answer) => {
                let head = String::from_utf8(answer.head).unwrap();
                assert!(head.contains("Content-Security-Policy: default-src 'none';"), "{head}");
                head.lines().next().unwrap().to_string()
            }
        }
    }

    #[test]
    fn there_are_five_files_and_all_want_the_token() {
        let (token, other) = (Token::random().unwrap(), Token::random().unwrap());
        let of = |path: &str| status(false, &format!("/{token}{path}"), &token);
        for file in ["/", "/page.css", "/page.js"] {
            assert_eq!(of(file), "HTTP/1.1 200 OK", "{file}");
        }
        assert_eq!([of("/status"), of("/crashes")], ["Status", "Crashes"]);
        for none in
            ["", "/x", "//", "/../status", "/./status", "/%2e%2e/", "/status/", "/page.html", "status", "/audit"]
        {
            assert_eq!(of(none), "HTTP/1.1 404 Not Found", "{none}");
        }
        for path in ["/", "/status", "", "status", "/../etc/passwd", &format!("/{other}/status"), &format!("{token}/")]
        {
            assert_eq!(status(false, path, &token), "HTTP/1.1 404 Not Found", "{path}");
        }
        assert_eq!(status(true, &format!("/{token}/"), &token), "HTTP/1.1 405 Method Not Allowed");
    }

    /// The policy of the page would not load anything else, and this finds it before a browser does.
    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_makes_no_html_of_text() {
        for (name, text) in [("html", PAGE), ("css", STYLE), ("js", SCRIPT)] {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for never in
                ["://", "innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", " style=", "onclick="]
            {
                assert!(!text.contains(never), "{never} in page.{name}");
            }
        }
    }
}
