//! Files that a program needs.

use super::download::{Had, downloads_within};
use super::server::{Server, nobody, ok, status};
use super::*;
use crate::config::Download;

fn item(uri: &str, filepath: &std::path::Path, hash: Option<[u8; 32]>) -> Download {
    Download {
        uri: uri.into(),
        filepath: filepath.to_str().unwrap().into(),
        sha256: hash,
    }
}

fn one(item: Download) -> Had {
    downloads_within(&[item], &LIMITS).remove(0)
}

#[test]
fn a_file_is_fetched_once_and_then_only_when_there_is_a_newer_one() {
    let folder = Folder::new();
    let path = folder.0.join("new/folder/model");
    let server = Server::start(|head, connection| {
        use std::io::Write as _;
        let answer = if head.contains("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT") {
            status("304 Not Modified").into_bytes()
        } else {
            ok(b"data")
        };
        connection.write_all(&answer).unwrap();
    });
    let file = || item(&server.url("/m"), &path, None);
    assert!(matches!(one(file()), Had::Fetched));
    assert!(matches!(one(file()), Had::Current));
    assert_eq!(fs::read(&path).unwrap(), b"data");
    let hashed = item(&server.url("/m"), &path, sha256(b"data"));
    assert!(matches!(one(hashed), Had::Verified));
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn a_file_with_a_hash_is_the_right_one_or_stays_as_it_was() {
    let folder = Folder::new();
    let path = folder.file("model", b"old");
    let server = Server::always(ok(b"evil"));
    match one(item(&server.url("/m"), &path, sha256(b"good"))) {
        Had::Not {
            why: LoadError::Hash { .. },
            stale: false,
        } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert!(!server.seen()[0].contains("If-Modified-Since"));
    assert_eq!(folder.names(), ["model"]);
}

#[test]
fn no_failure_of_one_file_touches_the_others() {
    let folder = Folder::new();
    let old = folder.file("old", b"old");
    let server = Server::always(ok(b"data"));
    let absent = Server::always(status("404 Not Found"));
    let source = folder.file("source", b"from a file");
    let names: Vec<PathBuf> = (0..20).map(|n| folder.0.join(format!("f{n}"))).collect();
    let mut list = vec![
        item(&nobody(), &names[0], None),
        item(&absent.url("/x"), &old, None),
        item(&server.url("/x"), &old.join("no folder"), None),
        item(&format!("file://{}", source.display()), &names[1], None),
    ];
    list.extend(
        names[2..]
            .iter()
            .map(|path| item(&server.url("/x"), path, None)),
    );
    let outcomes = downloads_within(&list, &LIMITS);
    assert!(matches!(&outcomes[0], Had::Not { stale: false, .. }));
    assert!(matches!(&outcomes[1], Had::Not { stale: true, .. }));
    assert!(matches!(
        &outcomes[2],
        Had::Not {
            why: LoadError::Write { .. },
            ..
        }
    ));
    assert!(outcomes[3..].iter().all(|had| matches!(had, Had::Fetched)));
    assert_eq!(fs::read(&old).unwrap(), b"old");
    assert_eq!(fs::read(&names[1]).unwrap(), b"from a file");
    assert_eq!(fs::read(&names[19]).unwrap(), b"data");
}

#[test]
fn what_came_before_a_redirect_or_an_error_is_not_in_the_file() {
    let folder = Folder::new();
    let path = folder.0.join("f");
    let server = Server::start(|head, connection| {
        use std::io::Write as _;
        let answer = if head.starts_with("GET /a ") {
            b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 9\r\nConnection: close\r\n\r\nelsewhere".to_vec()
        } else {
            ok(b"data")
        };
        connection.write_all(&answer).unwrap();
    });
    assert!(matches!(
        one(item(&server.url("/a"), &path, sha256(b"data"))),
        Had::Fetched
    ));
    assert_eq!(fs::read(&path).unwrap(), b"data");
}
