//! `sv3 web`: who has the address sees the switch, nobody else sees anything, and its processes can do nothing more.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use sv3::status::{Crashes, Status};
use sv3_tests::failure::{Failure, Result};
use sv3_tests::guest::Guest;
use sv3_tests::patience::{PATIENCE, until};
use sv3_tests::switch::{Home, Switch, send};

/// A chromium that is not in the PATH.
const CHROMIUM: &str = "SV3_TEST_CHROMIUM";

/// `sv3 web` and its address.
struct Web {
    process: Child,
    host: String,
    /// `/` and the token.
    path: String,
}

impl Web {
    fn start(home: &Home) -> Result<Web> {
        let control = home.path("control.sock").display().to_string();
        let mut command = home.sv3(&["web", "--listen", "127.0.0.1:0", "--control", &control]);
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().ok_or_else(|| Failure::new("no pipe"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let missing = || Failure::new(format!("{line:?} is no address"));
        let rest =
            line.trim_end().strip_prefix("http://").and_then(|rest| rest.strip_suffix('/')).ok_or_else(missing)?;
        let (host, token) = rest.split_once('/').ok_or_else(missing)?;
        Ok(Web { process, host: host.to_string(), path: format!("/{token}") })
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The process that speaks with browsers.
    fn page_pid(&self) -> Result<u32> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        until("the page server", || Ok(fs::read_to_string(&path)?.trim().parse().ok()))
    }

    /// Sends a request; the answer's status, head and body.
    fn send(&self, request: &str) -> Result<(u16, String, String)> {
        let mut stream = TcpStream::connect(&self.host)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| Failure::new(format!("no head: {answer:?}")))?;
        let status = head.split(' ').nth(1).unwrap_or_default().parse()?;
        Ok((status, head.to_string(), body.to_string()))
    }

    /// Asks for one of the page's files.
    fn get(&self, file: &str) -> Result<(u16, String, String)> {
        self.send(&format!("GET {}{file} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.host))
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = send(self.process.id(), "TERM");
        let _ = self.process.wait();
    }
}

#[test]
fn who_has_the_address_gets_the_page_and_what_the_switch_says() -> Result<()> {
    let switch = Switch::start()?;
    let _guest = Guest::connect(switch.socket());
    switch.kill_worker("SEGV")?;
    let web = Web::start(switch.home())?;
    for (file, kind, has) in [
        ("/", "text/html; charset=utf-8", "<title>sv3</title>"),
        ("/page.css", "text/css; charset=utf-8", "prefers-color-scheme: dark"),
        ("/page.js?x=1", "text/javascript; charset=utf-8", "textContent"),
    ] {
        let (status, head, body) = web.get(file)?;
        assert!(status == 200 && body.contains(has), "{head}");
        for field in [
            &format!("Content-Type: {kind}"),
            &format!("Content-Length: {}", body.len()),
            "Content-Security-Policy: default-src 'none'; script-src 'self';",
            "Referrer-Policy: no-referrer",
            "X-Content-Type-Options: nosniff",
            "Cross-Origin-Resource-Policy: same-origin",
            "Cache-Control: no-store",
        ] {
            assert!(head.contains(field), "{field} in {head}");
        }
    }
    let (_, head, body) = web.get("/status")?;
    let status: Status = serde_json::from_str(&body)?;
    assert!(head.contains("Content-Type: application/json\r\n") && status.port("p0").is_some(), "{head}\n{body}");
    let crashes: Crashes = serde_json::from_str(&web.get("/crashes")?.2)?;
    assert_eq!(crashes.crashes.len(), 1);
    Ok(())
}

#[test]
fn nobody_else_gets_anything() -> Result<()> {
    let switch = Switch::start()?;
    let web = Web::start(switch.home())?;
    let (path, host) = (&web.path, &web.host);
    let other: String = path.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let of = |name: &str| format!("GET {path}/status HTTP/1.1\r\nHost: {name}\r\n\r\n");
    let by = |method: &str| format!("{method} {path}/status HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
    let requests = [
        (404, vec![get("/"), get("/status"), get(&format!("/{}/status", &other[1..])), get("/favicon.ico"), get(path)]),
        (
            404,
            ["/../status", "/%2e%2e/status", "//status", "/page.html", "/audit", "/restart"]
                .map(|file| get(&format!("{path}{file}")))
                .to_vec(),
        ),
        (
            404,
            vec![get(&format!("/../etc/passwd{path}/status")), get(&format!("http://{host}{path}/status")), get("*")],
        ),
        // DNS rebinding: a page of another name, which resolves to loopback.
        (421, ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.0.2.1", "[::2]", ""].map(of).to_vec()),
        (405, ["POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT"].map(by).to_vec()),
        (400, vec!["nonsense\r\n\r\n".to_string(), format!("GET {path}/status HTTP/1.1\r\n\r\n")]),
    ];
    for (status, requests) in requests {
        for request in requests {
            let (told, head, body) = web.send(&request)?;
            let tells = ["worker", "<html", "const "].iter().any(|word| body.contains(word));
            assert!(told == status && !tells && head.contains("Content-Security-Policy"), "{request}: {head}\n{body}");
        }
    }
    let mut endless = TcpStream::connect(host)?;
    endless.set_read_timeout(Some(PATIENCE))?;
    // The server may have had enough before.
    let _ = endless.write_all(&[b'x'; 20_000]);
    let mut answer = [0; 12];
    endless.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HTTP/1.1 431");
    assert_eq!(web.get("/status")?.0, 200);
    for (address, reason) in [("0.0.0.0:0", "loopback"), ("[::]:0", "loopback"), ("localhost:0", "127.0.0.1:PORT")] {
        let output = switch.home().sv3_output(&["web", "--listen", address])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{said}");
    }
    Ok(())
}

#[test]
fn slow_browsers_keep_nobody_out() -> Result<()> {
    let switch = Switch::start()?;
    let web = Web::start(switch.home())?;
    let request = format!("GET {}/status HTTP/1.1\r\nHost: {}\r\n\r\n", web.path, web.host);
    let mut slow = (0..60).map(|_| Ok(TcpStream::connect(&web.host)?)).collect::<Result<Vec<_>>>()?;
    for round in 0..5 {
        for (at, stream) in slow.iter_mut().enumerate() {
            // The server may have given up on it. Some ask, and never read.
            let _ = match at % 2 {
                0 => stream.write_all(b"G"),
                _ if round == 0 => stream.write_all(request.as_bytes()),
                _ => Ok(()),
            };
        }
        assert_eq!(web.get("/status")?.0, 200);
    }
    Ok(())
}

/// A program in the place of a switch, and how often it was asked.
fn puppet(home: &Home, status: String) -> Result<Arc<AtomicUsize>> {
    let listener = UnixListener::bind(home.path("control.sock"))?;
    fs::set_permissions(home.path("control.sock"), fs::Permissions::from_mode(0o777))?;
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    // It serves as long as the test runs.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut caller) = stream else { return };
            let mut asked = [0; 64];
            let length = caller.read(&mut asked).unwrap_or(0);
            counted.fetch_add(1, Relaxed);
            let is_status = asked.get(..length) == Some(b"status\n");
            let _ = caller.write_all(if is_status { &status } else { "{\"crashes\": []}" }.as_bytes());
        }
    });
    Ok(count)
}

#[test]
fn many_browsers_ask_the_switch_no_oftener_than_one() -> Result<()> {
    let home = Home::new()?;
    // As long as the answers of some hundred ports.
    let count = puppet(&home, format!("{{\"ports\": \"{}\"}}", "x".repeat(1 << 20)))?;
    let web = Web::start(&home)?;
    let (before, start) = (count.load(Relaxed), Instant::now());
    for _ in 0..40 {
        let (status, _, body) = web.get("/status")?;
        assert!(status == 200 && body.len() > 1 << 20);
    }
    let most = start.elapsed().as_millis() / 500 + 1;
    let asked = count.load(Relaxed) - before;
    assert!(asked as u128 <= most, "{asked} questions in {:?}", start.elapsed());
    Ok(())
}

#[test]
fn it_outlives_the_switch() -> Result<()> {
    let switch = Switch::start()?;
    let home = switch.home().clone();
    let web = Web::start(&home)?;
    assert_eq!(web.get("/status")?.0, 200);
    assert!(switch.end("TERM")?.success());
    let gone = until("no switch", || Ok(Some(web.get("/status")?).filter(|answer| answer.0 == 503)))?;
    assert_eq!(gone.2, "no switch runs");
    let again = home.start(&[])?;
    let pid = again.supervisor_pid()?;
    until("the next switch", || {
        let status = serde_json::from_str::<Status>(&web.get("/status")?.2);
        Ok(status.ok().filter(|status| status.supervisor.pid == pid))
    })?;
    Ok(())
}

#[test]
fn its_processes_are_confined_and_end_together() -> Result<()> {
    let switch = Switch::start()?;
    let mut web = Web::start(switch.home())?;
    let (asker, page) = (web.pid(), web.page_pid()?);
    assert_eq!(web.get("/status")?.0, 200);
    for pid in [asker, page] {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(':').trim().to_string()
        };
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "of {pid}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(set), 16)?, 0, "{set} of {pid}");
        }
        // Stopped and continued, as by Ctrl-Z and `fg`.
        send(pid, "STOP")?;
        until("the stop", || Ok((state(pid) == 'T').then_some(())))?;
        send(pid, "CONT")?;
        assert_eq!(web.get("/status")?.0, 200);
    }
    // The secret is in no list of processes.
    for pid in [asker, page] {
        let line = fs::read(format!("/proc/{pid}/cmdline"))?;
        assert!(!String::from_utf8_lossy(&line).contains(&web.path[1..]));
    }
    send(asker, "KILL")?;
    web.process.wait()?;
    until("the end of the page server", || Ok((state(page) == 'Z').then_some(())))?;
    let web = Web::start(switch.home())?;
    send(web.page_pid()?, "KILL")?;
    let mut web = web;
    let ended = until("the end of the asker", || Ok(web.process.try_wait()?))?;
    assert!(!ended.success());
    Ok(())
}

/// The state of a process; `Z` if it has ended.
fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, behind)| behind.chars().next()).unwrap_or('Z')
}

/// Chromium, if there is one: it is too large to be fetched for one test.
fn chromium() -> Option<PathBuf> {
    let given = std::env::var_os(CHROMIUM).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).map(|folder| folder.join("chromium"));
    given.or_else(|| folders.into_iter().find(|program| program.is_file()))
}

/// A switch's texts are texts to a browser, whatever stands in them; and the page's own policy lets its script run.
#[test]
fn a_browser_shows_the_ports_and_runs_no_text_of_the_switch() -> Result<()> {
    let Some(chromium) = chromium() else { return Ok(()) };
    let home = Home::new()?;
    let evil = "<img src=x onerror=document.title='taken'><script>document.title='taken'</script>";
    let (_, example) = include_str!("../../docs/use/status.md").split_once("```json\n").unwrap_or_default();
    let status = example
        .split_once("```")
        .unwrap_or_default()
        .0
        .replace("killed by", evil)
        .replace("\"p0\"", &format!("\"{evil}\""));
    let count = puppet(&home, status)?;
    let web = Web::start(&home)?;
    let data = tempfile::tempdir()?;
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60"]).arg(chromium);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--virtual-time-budget=8000",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", data.path().display())).arg(format!("http://{}{}/", web.host, web.path));
    let output = command.stdin(Stdio::null()).output()?;
    let page = String::from_utf8_lossy(&output.stdout);
    for shown in
        [">live<", "<title>sv3</title>", "&lt;img src=x onerror=", "nic-0000-02-00.1", "no_rx_buffers", "pid 4713"]
    {
        assert!(page.contains(shown), "{shown} in {page}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!page.contains("<img") && page.matches("<script").count() == 1, "{page}");
    assert!(count.load(Relaxed) >= 3, "`sv3 web` asks once, and the page twice at least");
    Ok(())
}
