//! A load generator for `.vtc` files, which have it as `${hammer}`: this very executable, so that it
//! runs wherever varnishtest does.
//!
//! `${hammer} ADDRESS PORT UPDATES V1 V2` posts the two builds in turn, so many times, while clients
//! ask the program all the time. It succeeds if every answer is 200 from one of the two, no
//! connection is lost, and whoever asks after an update is answered by what it has brought.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What makes the test executable a load generator.
pub(crate) const ASKED: &str = "--hammer";
const CLIENTS: usize = 3;
const VERSIONS: [&str; 2] = ["v1", "v2"];

/// Does what the arguments behind [`ASKED`] say; answers what happened.
pub(crate) fn run() -> Result<String, String> {
    let arguments: Vec<String> = env::args().skip(2).collect();
    let [address, port, updates, builds @ ..] = arguments.as_slice() else {
        return Err("arguments: ADDRESS PORT UPDATES V1 V2".to_owned());
    };
    let [one, two] = builds else {
        return Err("there have to be two builds".to_owned());
    };
    let updates: usize = updates.parse().map_err(|e| format!("{updates}: {e}"))?;
    let server = format!("{address}:{port}");
    let read = |path: &String| fs::read(path).map_err(|e| format!("{path}: {e}"));
    let builds = [read(one)?, read(two)?];

    let over = AtomicBool::new(false);
    let answers: [AtomicU64; 2] = Default::default();
    let slowest = AtomicU64::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| ask_until(&over, &server, &answers, &slowest)))
            .collect();
        let updated = update(&server, updates, &builds, &answers);
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_panic| "a client panicked")??;
        }
        updated
    })?;
    let answers = answers
        .each_ref()
        .map(|count| count.load(Ordering::Relaxed));
    if answers.contains(&0) {
        return Err("one of the builds has never answered a client".to_owned());
    }
    let took = begun.elapsed();
    Ok(format!(
        "{updates} updates in {took:.1?}, {answers:?} answers by the two builds, the slowest after {:.1?}",
        Duration::from_micros(slowest.into_inner())
    ))
}

fn ask_until(
    over: &AtomicBool,
    server: &str,
    answers: &[AtomicU64; 2],
    slowest: &AtomicU64,
) -> Result<(), String> {
    let mut connection = Connection::open(server)?;
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let (status, body) = connection.request("GET", "/", &[])?;
        let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        slowest.fetch_max(took, Ordering::Relaxed);
        let version = VERSIONS.iter().position(|version| body == *version);
        let (200, Some(version)) = (status, version) else {
            over.store(true, Ordering::Relaxed);
            return Err(format!("a client got {status} {body:?}"));
        };
        if let Some(count) = answers.get(version) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn update(
    server: &str,
    updates: usize,
    builds: &[Vec<u8>; 2],
    answers: &[AtomicU64; 2],
) -> Result<(), String> {
    let mut connection = Connection::open(server)?;
    for (build, version) in builds.iter().zip(VERSIONS).cycle().take(updates) {
        let (status, body) = connection.request("POST", "/live_update/p", build)?;
        if status != 201 || !body.starts_with("Update successful") {
            return Err(format!("the update to {version} got {status} {body:?}"));
        }
        let (status, body) = connection.request("GET", "/", &[])?;
        if (status, body.as_str()) != (200, version) {
            return Err(format!("after the update to {version}: {status} {body:?}"));
        }
        // Clients are at work between one update and the next.
        let sum = || {
            answers
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        let enough = sum() + 4;
        let deadline = Instant::now() + Duration::from_secs(120);
        while sum() < enough {
            if Instant::now() > deadline {
                return Err("no client is answered any more".to_owned());
            }
            thread::yield_now();
        }
    }
    Ok(())
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(server: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(server).map_err(|e| format!("{server}: {e}"))?;
        let patience = Some(Duration::from_secs(300));
        stream
            .set_read_timeout(patience)
            .map_err(|e| e.to_string())?;
        Ok(Self(BufReader::new(stream)))
    }

    fn request(&mut self, method: &str, url: &str, body: &[u8]) -> Result<(u16, String), String> {
        let failed = |e: std::io::Error| format!("{method} {url}: {e}");
        let length = match body {
            [] => String::new(),
            body => format!("Content-Length: {}\r\n", body.len()),
        };
        let mut request = format!(
            "{method} {url} HTTP/1.1\r\nHost: h\r\nX-LiveUpdate-Key: secret\r\n{length}\r\n"
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.0.get_mut().write_all(&request).map_err(failed)?;

        let mut line = || {
            let mut line = String::new();
            match self.0.read_line(&mut line).map_err(failed)? {
                0 => Err(format!("{method} {url}: the connection was closed")),
                _ => Ok(line.trim_end().to_owned()),
            }
        };
        let status = line()?;
        let status = status.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| format!("{method} {url}: no status"))?;
        let mut length = 0;
        loop {
            let field = line()?;
            match field.split_once(':') {
                None => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().map_err(|e| format!("{field}: {e}"))?;
                }
                Some(_) => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).map_err(failed)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
