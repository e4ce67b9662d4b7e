//! Downloads, and fetches of guests, from real https servers.
//!
//! Whom libcurl trusts stands in a file of the system. A test has another one in its place, in a mount namespace of
//! its own thread and of the threads that this one starts. Guests' fetches are a single test: the threads that make
//! them are kept for whoever fetches next.

#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

#[path = "support/folder.rs"]
mod folder;
#[path = "support/site.rs"]
mod site;
mod support;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Lines};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::{panic, ptr, thread};

use folder::Folder;
use runtime::outgoing::FetchRule;
use runtime::{Recorded, Threads, Vcl};
use serde_json::json;
use site::{Site, ok, redirect};
use support::{get, get_with, program_with};

/// Whom Debian's libcurl trusts.
const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The name in a certificate for the servers of these tests.
const HERE: &str = "IP:127.0.0.1";
const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

impl Folder {
    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Runs `openssl` in here.
    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace());
        let ran = command.current_dir(&self.0).output();
        let ran = ran.unwrap_or_else(|error| panic!("openssl (`make setup` installs it): {error}"));
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{command:?}: {said}");
    }
}

/// Signs certificates.
struct Authority(Folder);

impl Authority {
    fn new() -> Self {
        let folder = Folder::new();
        folder.openssl(&format!(
            "req -x509 {NEW_KEY} -subj /CN=authority -keyout key -out certificate"
        ));
        Self(folder)
    }

    /// A server with a certificate for `name` that is good for so many days.
    fn server(&self, name: &str, days: i32) -> Server {
        let folder = Folder::new();
        let signer = self.0.0.display();
        folder.openssl(&format!(
            "req {NEW_KEY} -subj /CN=server -addext subjectAltName={name} -keyout key -out request"
        ));
        folder.openssl(&format!(
            "x509 -req -in request -copy_extensions copy -days {days} -CA {signer}/certificate \
             -CAkey {signer}/key -out certificate"
        ));
        Server::start(folder)
    }
}

/// Answers each request with the file of that name, which has a whole answer in it.
const SERVER: &str = r#"
import http.server, socketserver, ssl

class Files(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        print(self.path, flush=True)
        with open("." + self.path, "rb") as answer:
            self.wfile.write(answer.read())

server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Files)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("certificate", "key")
server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

struct Server {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
    port: u16,
    folder: Folder,
}

impl Server {
    fn start(folder: Folder) -> Self {
        let log = folder.join("log");
        let mut process = Command::new("python3")
            .args(["-c", SERVER])
            .current_dir(&folder.0)
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let says = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut server = Self {
            process,
            says,
            port: 0,
            folder,
        };
        let port = server.says.next();
        let log = || panic!("no server: {}", fs::read_to_string(&log).unwrap());
        server.port = port.unwrap_or_else(log).unwrap().parse().unwrap();
        server
    }

    /// The address of that answer, from now on.
    fn has(&self, name: &str, answer: &[u8]) -> String {
        fs::write(self.folder.join(name), answer).unwrap();
        format!("https://127.0.0.1:{}/{name}", self.port)
    }

    /// Ends it: what it was asked for.
    fn asked(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.says.by_ref().map(Result::unwrap).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

/// Runs a test where the system trusts a new authority.
fn trusting(test: impl FnOnce(&Authority) + Send) {
    let authority = Authority::new();
    let outcome = thread::scope(|scope| {
        let work = || {
            trust(&authority.0.join("certificate"));
            test(&authority);
        };
        scope.spawn(work).join()
    });
    outcome.unwrap_or_else(|panic| panic::resume_unwind(panic));
}

fn trust(authority: &Path) {
    assert!(
        Path::new(TRUSTED).exists(),
        "{TRUSTED} is missing (`make setup` installs ca-certificates)"
    );
    // SAFETY: no pointers; no memory is shared or unshared.
    let alone = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    succeeded("a mount namespace", alone);
    mount(Path::new("none"), "/", libc::MS_REC | libc::MS_PRIVATE);
    mount(authority, TRUSTED, libc::MS_BIND);
}

fn mount(from: &Path, to: &str, flags: libc::c_ulong) {
    let from = CString::new(from.as_os_str().as_bytes()).unwrap();
    let to = CString::new(to).unwrap();
    // SAFETY: both paths end with a zero byte; with these flags there is neither type nor data.
    let mounted =
        unsafe { libc::mount(from.as_ptr(), to.as_ptr(), ptr::null(), flags, ptr::null()) };
    succeeded("a mount", mounted);
}

fn succeeded(what: &str, result: i32) {
    let error = io::Error::last_os_error();
    assert_eq!(result, 0, "{what} (the test has to be root): {error}");
}

/// What is said of a library that cannot be had.
fn refused(uri: &str) -> String {
    Vcl::new().library(uri).unwrap_err().to_string()
}

#[test]
fn libraries_programs_and_their_files_come_from_servers_that_the_system_trusts() {
    trusting(|authority| {
        let server = authority.server(HERE, 1);
        let folder = Folder::new();
        let (kept, file) = (folder.join("kept"), folder.join("file"));
        let elf = guests::elf("hello");
        let entry = json!({ "p": {
            "uri": server.has("program", &ok(&elf)),
            "filename": kept,
            "download": [{ "uri": server.has("data", &ok(b"data")), "filepath": file }],
        }});
        let vcl = Vcl::new();
        let library = server.has("library", &ok(entry.to_string().as_bytes()));
        vcl.library(&library).unwrap();
        let program = vcl.program(b"p").unwrap();
        assert_eq!(get(&program, "/").text(), "Hello World");
        assert_eq!(fs::read(&kept).unwrap(), elf);
        assert_eq!(fs::read(&file).unwrap(), b"data");
        assert_eq!(server.asked(), ["/library", "/data", "/program"]);
    });
}

#[test]
fn a_server_that_nobody_trusts_gets_no_request_and_the_refusal_says_why() {
    trusting(|authority| {
        for (server, why) in [
            (
                Authority::new().server(HERE, 1),
                "SSL certificate problem: unable to get local issuer certificate",
            ),
            (
                authority.server(HERE, -1),
                "SSL certificate problem: certificate has expired",
            ),
        ] {
            let uri = server.has("p", &ok(&guests::elf("hello")));
            assert_eq!(refused(&uri), format!("{uri}: {why}"));
            let vcl = Vcl::new();
            vcl.define(&json!({ "p": { "uri": uri } }).to_string(), "test")
                .unwrap();
            let error = vcl.program(b"p").unwrap().reserve().unwrap_err();
            let expected = format!("program p did not start: {uri}: {why}");
            assert_eq!(error.to_string(), expected);
            assert_eq!(server.asked(), [""; 0]);
        }
    });
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    trusting(|authority| {
        let server = authority.server("DNS:example.com", 1);
        let uri = server.has("l", &ok(b"{}"));
        let why =
            "SSL: no alternative certificate subject name matches target host name '127.0.0.1'";
        assert_eq!(refused(&uri), format!("{uri}: {why}"));
        assert_eq!(server.asked(), [""; 0]);
    });
}

#[test]
fn a_redirect_from_https_leads_to_trusted_https_only() {
    trusting(|authority| {
        let server = authority.server(HERE, 1);
        let plain = Site::start(|_, _| ok(b"{}"));
        let to = plain.url("/");
        let uri = server.has("down", &redirect(302, &to));
        let expected = format!("{uri}: redirected to {to:?}, which is not followed");
        assert_eq!(refused(&uri), expected);
        assert_eq!(plain.connections(), 0);

        let stranger = Authority::new().server(HERE, 1);
        let to = stranger.has("l", &ok(b"{}"));
        let said = refused(&server.has("away", &redirect(302, &to)));
        assert!(
            said.starts_with(&format!("{to}: SSL certificate ")),
            "{said}"
        );
        assert_eq!(stranger.asked(), [""; 0]);

        let other = authority.server(HERE, 1);
        let to = other.has("l", &ok(b"{}"));
        let uri = server.has("over", &redirect(302, &to));
        Vcl::new().library(&uri).unwrap();
        assert_eq!(other.asked(), ["/l"]);
        assert_eq!(server.asked(), ["/down", "/away", "/over"]);
    });
}

#[test]
fn a_server_that_nobody_trusts_replaces_nothing() {
    trusting(|_| {
        let server = Authority::new().server(HERE, 1);
        let folder = Folder::new();
        let (kept, file) = (folder.join("kept"), folder.join("file"));
        let elf = guests::elf("hello");
        fs::write(&kept, &elf).unwrap();
        fs::write(&file, b"old").unwrap();
        let entry = json!({ "p": {
            "uri": server.has("program", &ok(&guests::elf("echo"))),
            "filename": kept,
            "download": [{ "uri": server.has("data", &ok(b"data")), "filepath": file }],
        }});
        let vcl = Vcl::new();
        vcl.define(&entry.to_string(), "test").unwrap();
        assert_eq!(get(&vcl.program(b"p").unwrap(), "/").text(), "Hello World");
        assert_eq!(fs::read(&kept).unwrap(), elf);
        assert_eq!(fs::read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2);
        assert_eq!(server.asked(), [""; 0]);
    });
}

#[test]
fn a_guest_fetches_from_trusted_servers_and_can_only_forgo_their_names() {
    trusting(|authority| {
        let program = program_with("fetch", Threads::AsHostLikes, |recipe| {
            recipe.allowed_fetch = vec![FetchRule::parse("*").unwrap()];
        });
        let ask = |url: &str, options: &str| {
            let reply = get_with(&program, url, options, Recorded::new("GET", &[]));
            (reply.text(), reply.log())
        };
        let good = |url: &str, options: &str| {
            let (text, log) = ask(url, options);
            let fine = text.starts_with("r=0 status=200 len=4 ") && text.ends_with("\ndata");
            assert!(fine, "{text}{log}");
        };
        let bad = |url: &str, options: &str, why: &str| {
            let (text, log) = ask(url, options);
            assert!(text.starts_with("r=-60 status=0 "), "{text}{log}");
            assert!(log.contains(&format!("Fetch: GET {url}: {why}")), "{log}");
        };
        let data = ok(b"data");
        let trusted = authority.server(HERE, 1);
        good(&trusted.has("f", &data), "");

        let stranger = Authority::new().server(HERE, 1);
        let why = "SSL certificate problem: unable to get local issuer certificate";
        let url = stranger.has("f", &data);
        for options in ["", "noverify"] {
            bad(&url, options, why);
        }
        assert_eq!(stranger.asked(), [""; 0]);

        let other = authority.server("DNS:example.com", 1);
        let why = "SSL: no alternative certificate subject name matches target host name";
        let url = other.has("f", &data);
        bad(&url, "", why);
        good(&url, "noverify");
        // The connection is kept, but not for those who want the name.
        bad(&url, "", why);
        good(&url, "noverify");
        assert_eq!(other.asked(), ["/f", "/f"]);
    });
}
