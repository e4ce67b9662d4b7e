//! What is kept of a fetched program, and when it is used.

use super::server::{Server, nobody, ok, status};
use super::*;

const STORE: &[u8] = b"\x7fELF store";

fn with_etag(body: &[u8], etag: &str) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\nETag: {etag}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// Answers 304 where the request has the ETag, otherwise the body with it.
fn careful(body: &[u8], etag: &'static str) -> Server {
    let answer = with_etag(body, etag);
    Server::start(move |head, connection| {
        use std::io::Write as _;
        let known = head.contains(&format!("\r\nIf-None-Match: {etag}\r\n"));
        let unchanged = status("304 Not Modified").into_bytes();
        let answer = if known { &unchanged } else { &answer };
        connection.write_all(answer).unwrap();
    })
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len()).unwrap());
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn with_storage(filename: &PathBuf, uri: &str) -> ProgramConfig {
    let mut config = config(Some(filename), Some(uri));
    config.settings.storage = true;
    config
}

#[test]
fn a_server_is_told_the_etag_of_what_it_sent_and_of_nothing_else() {
    let folder = Folder::new();
    let path = folder.0.join("p");
    let server = careful(REMOTE, "W/\"v1\"");
    let config = config(Some(&path), Some(&server.url("/p")));
    assert!(matches!(
        load(&config).unwrap().from,
        Origin::Fetched { .. }
    ));
    let loaded = load(&config).unwrap();
    assert!(matches!(loaded.from, Origin::Unchanged));
    assert_eq!(loaded.binaries.request, REMOTE);
    // Somebody changed the file: the record is not about it.
    fs::write(&path, b"\x7fELF by hand").unwrap();
    assert!(matches!(
        load(&config).unwrap().from,
        Origin::Fetched { .. }
    ));
    assert!(!server.seen()[2].contains("If-None-Match"));
    assert_eq!(fs::read(&path).unwrap(), REMOTE);
    // Nor is a broken record, or one that would add a field to the request.
    let origin = folder.0.join("p.origin");
    let record = fs::read_to_string(&origin).unwrap();
    assert!(!record.contains("127.0.0.1"), "{record}");
    for bad in [
        "{}".to_owned(),
        "x".repeat(5000),
        record.replace("v1", "v1\\r\\nX: y"),
    ] {
        assert_ne!(bad, record);
        fs::write(&origin, bad).unwrap();
        load(&config).unwrap();
        assert!(!server.seen().last().unwrap().contains("If-None-Match"));
    }
}

#[test]
fn a_copy_from_another_address_is_no_older_version() {
    let folder = Folder::new();
    let path = folder.0.join("p");
    let first = Server::always(ok(REMOTE));
    load(&config(Some(&path), Some(&first.url("/v1")))).unwrap();
    load(&config(Some(&path), Some(&first.url("/v2")))).unwrap();
    load(&config(Some(&path), Some(&first.url("/v2")))).unwrap();
    let asked: Vec<bool> = first
        .seen()
        .iter()
        .map(|head| head.contains("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"))
        .collect();
    assert_eq!(asked, [false, false, true]);
}

#[test]
fn both_binaries_of_an_archive_are_kept_and_used_until_there_is_a_newer_one() {
    let folder = Folder::new();
    let path = folder.0.join("p");
    let both = archive(&[("app", REMOTE), ("my_storage", STORE)]);
    let server = careful(&both, "\"v1\"");
    let config = with_storage(&path, &server.url("/p"));
    for _ in 0..2 {
        let binaries = load(&config).unwrap().binaries;
        assert_eq!(binaries.request, REMOTE);
        assert_eq!(binaries.storage.as_deref(), Some(STORE));
    }
    assert_eq!(folder.names(), ["p", "p.origin", "p_storage"]);
    // Down: both are used.
    let down = load(&with_storage(&path, &nobody())).unwrap();
    assert!(matches!(down.from, Origin::Fallback { .. }));
    assert_eq!(down.binaries.storage.as_deref(), Some(STORE));
    // Without `uri` the files are what they are; without `storage` there is none.
    let mut local = with_storage(&path, "");
    local.uri = None;
    assert_eq!(
        load(&local).unwrap().binaries.storage.as_deref(),
        Some(STORE)
    );
    local.settings.storage = false;
    assert_eq!(load(&local).unwrap().binaries.storage, None);
    // A lost half is fetched anew, an archive without one forgets it.
    fs::remove_file(folder.0.join("p_storage")).unwrap();
    assert!(load(&config).unwrap().binaries.storage.is_some());
    let single = Server::always(ok(REMOTE));
    let loaded = load(&with_storage(&path, &single.url("/p"))).unwrap();
    assert_eq!(loaded.binaries.storage, None);
    assert_eq!(folder.names(), ["p", "p.origin"]);
}

#[test]
fn the_hash_may_be_that_of_the_archive_or_of_the_program_in_it() {
    for hashed in 0..2 {
        let folder = Folder::new();
        let path = folder.0.join("p");
        let both = archive(&[("app", REMOTE), ("storage", STORE)]);
        let server = Server::always(ok(&both));
        let mut config = with_storage(&path, &server.url("/p"));
        config.sha256 = sha256(if hashed == 0 { &both } else { REMOTE });
        load(&config).unwrap();
        // Verified by the record, or by the program: nobody is asked.
        let loaded = load(&config).unwrap();
        assert!(matches!(loaded.from, Origin::File));
        assert_eq!(loaded.binaries.storage.as_deref(), Some(STORE));
        assert_eq!(server.seen().len(), 1);
        config.sha256 = sha256(STORE);
        assert!(matches!(load(&config), Err(LoadError::Hash { .. })));
    }
}

#[test]
fn what_is_no_program_does_not_replace_the_copy() {
    let folder = Folder::new();
    let path = folder.file("p", b"local");
    for bad in [
        &b"<html>Not here</html>"[..],
        b"",
        &archive(&[("a", REMOTE), ("b", REMOTE)]),
    ] {
        let server = Server::always(ok(bad));
        let uri = server.url("/p");
        let message = unlucky(load(&config(Some(&path), Some(&uri))));
        assert!(message.starts_with(&format!("{uri}: ")), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"local");
    }
}
