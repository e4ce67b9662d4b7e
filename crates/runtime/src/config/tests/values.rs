//! Each key: its field, its limits, its errors, its documentation.

use super::super::table::{Beyond, Key, Kind};
use super::*;

#[test]
fn every_scalar_key_reaches_its_own_field() {
    let d = Settings::default;
    let cases = [
        (
            "max_boot_time",
            json!(2.5),
            Settings {
                max_boot_time: Duration::from_millis(2500),
                ..d()
            },
        ),
        (
            "max_request_time",
            json!(1),
            Settings {
                max_request_time: Duration::from_secs(1),
                ..d()
            },
        ),
        (
            "max_storage_time",
            json!(3),
            Settings {
                max_storage_time: Duration::from_secs(3),
                ..d()
            },
        ),
        (
            "max_queue_time",
            json!(3),
            Settings {
                max_queue_time: Duration::from_secs(3),
                ..d()
            },
        ),
        (
            "max_queue_length",
            json!(3),
            Settings {
                max_queue_length: 3,
                ..d()
            },
        ),
        (
            "max_memory",
            json!(8),
            Settings {
                max_memory: 8 * MIB,
                ..d()
            },
        ),
        (
            "max_request_memory",
            json!(8000),
            Settings {
                max_request_memory: 8000 * MIB,
                ..d()
            },
        ),
        (
            "limit_workmem_after_req",
            json!(0),
            Settings {
                limit_workmem_after_req: 0,
                ..d()
            },
        ),
        (
            "req_mem_limit_after_reset",
            json!(5000),
            Settings {
                limit_workmem_after_req: 5000 * MIB,
                ..d()
            },
        ),
        (
            "address_space",
            json!(301),
            Settings {
                address_space: 302 * MIB,
                ..d()
            },
        ),
        (
            "shared_memory",
            json!(4096),
            Settings {
                shared_memory: 4096 * MIB,
                ..d()
            },
        ),
        (
            "cold_start_file",
            json!("$HOME/x"),
            Settings {
                cold_start_file: Some("/home/v/x".into()),
                ..d()
            },
        ),
        (
            "concurrency",
            json!(255),
            Settings {
                concurrency: 255,
                ..d()
            },
        ),
        (
            "storage",
            json!(true),
            Settings {
                storage: true,
                ..d()
            },
        ),
        (
            "hugepages",
            json!(true),
            Settings {
                hugepages: true,
                ..d()
            },
        ),
        (
            "hugepage_arena_size",
            json!(2),
            Settings {
                hugepages: true,
                hugepage_arena_size: 2 * MIB,
                ..d()
            },
        ),
        (
            "request_hugepages",
            json!(4),
            Settings {
                request_hugepage_arena_size: 4 * MIB,
                ..d()
            },
        ),
        (
            "request_hugepage_arena_size",
            json!(4),
            Settings {
                request_hugepage_arena_size: 4 * MIB,
                ..d()
            },
        ),
        (
            "split_hugepages",
            json!(false),
            Settings {
                split_hugepages: false,
                ..d()
            },
        ),
        (
            "transparent_hugepages",
            json!(true),
            Settings {
                transparent_hugepages: true,
                ..d()
            },
        ),
        (
            "stdout",
            json!(true),
            Settings {
                stdout: true,
                ..d()
            },
        ),
        ("smp", json!(16), Settings { smp: 16, ..d() }),
        (
            "allow_debug",
            json!(true),
            Settings {
                allow_debug: true,
                ..d()
            },
        ),
        (
            "remote_debug_on_exception",
            json!(true),
            Settings {
                remote_debug_on_exception: true,
                ..d()
            },
        ),
        (
            "debug_port",
            json!(2160),
            Settings {
                debug_port: 2160,
                ..d()
            },
        ),
        (
            "control_ephemeral",
            json!(true),
            Settings {
                control_ephemeral: true,
                ..d()
            },
        ),
        (
            "ephemeral",
            json!(false),
            Settings {
                ephemeral: false,
                ..d()
            },
        ),
        (
            "ephemeral_keep_working_memory",
            json!(false),
            Settings {
                ephemeral_keep_working_memory: false,
                ..d()
            },
        ),
        (
            "mmap_backed_files",
            json!(false),
            Settings {
                mmap_backed_files: false,
                ..d()
            },
        ),
        (
            "relocate_fixed_mmap",
            json!(false),
            Settings {
                relocate_fixed_mmap: false,
                ..d()
            },
        ),
        (
            "main_arguments",
            json!(["$PWD", "b"]),
            Settings {
                main_arguments: vec![b"/work".to_vec(), b"b".to_vec()],
                ..d()
            },
        ),
        (
            "environment",
            json!(["A=$HOME"]),
            Settings {
                environment: vec!["A=/home/v".into()],
                ..d()
            },
        ),
        (
            "executable_heap",
            json!(true),
            Settings {
                executable_heap: true,
                ..d()
            },
        ),
        (
            "current_working_directory",
            json!("$PWD/x"),
            Settings {
                current_working_directory: "/work/x".into(),
                ..d()
            },
        ),
        (
            "verbose",
            json!(true),
            Settings {
                verbose: true,
                ..d()
            },
        ),
        (
            "verbose_syscalls",
            json!(true),
            Settings {
                verbose_syscalls: true,
                ..d()
            },
        ),
        (
            "verbose_pagetables",
            json!(true),
            Settings {
                verbose_pagetables: true,
                ..d()
            },
        ),
        (
            "strict",
            json!(true),
            Settings {
                strict: true,
                ..d()
            },
        ),
    ];
    let mut covered: BTreeSet<&str> = cases.iter().map(|(key, ..)| *key).collect();
    for (key, value, expected) in cases {
        assert_eq!(settings(key, value), expected, "{key}");
    }
    // Those with a form of their own have tests of their own below.
    covered.extend([
        "remapping",
        "executable_remapping",
        "blackout_area",
        "allowed_paths",
        "allowed_fetch",
    ]);
    covered.extend(["download", "server", "websocket_server", "warmup"]);
    let known: BTreeSet<&str> = table::spellings(keys::SETTINGS).collect();
    assert_eq!(covered, known);
}

#[test]
fn program_keys_reach_their_fields() {
    assert_eq!(
        with("filename", json!("$PWD/f")).unwrap().filename,
        Some("/work/f".into())
    );
    for uri in ["http://h/x", "HTTPS://h/$HOME", "file:///x"] {
        assert_eq!(with("uri", json!(uri)).unwrap().uri.as_deref(), Some(uri));
    }
    assert!(with("key", json!("k")).unwrap().key.matches(b"k"));
    assert!(with("start", json!(true)).unwrap().start);
    let hash = with("sha256", json!(format!("{}{}", "0F".repeat(31), "a5")))
        .unwrap()
        .sha256;
    let mut expected = [0x0f; 32];
    expected[31] = 0xa5;
    assert_eq!(hash, Some(expected));
    assert_eq!(with("sha256", json!("")).unwrap().sha256, None);
}

#[test]
fn program_keys_refuse_what_does_not_fit() {
    for (key, value, expected) in [
        ("filename", json!(1), "expected a string, got 1"),
        (
            "filename",
            json!("a\0"),
            "expected a string without a zero byte, got \"a\\0\"",
        ),
        ("group", json!(null), "expected a string, got null"),
        (
            "uri",
            json!("ftp://x/y"),
            "expected an address that begins with http://, https:// or file:///, got \"ftp://x/y\"",
        ),
        (
            "uri",
            json!("file://x"),
            "expected an address that begins with http://, https:// or file:///, got \"file://x\"",
        ),
        (
            "uri",
            json!("http://"),
            "expected an address that begins with http://, https:// or file:///, got \"http://\"",
        ),
        (
            "uri",
            json!("http://a\nb"),
            "expected an address that begins with http://, https:// or file:///, got \"http://a\\nb\"",
        ),
        ("key", json!(12345), "expected a string, got something else"),
        (
            "sha256",
            json!("12"),
            "expected 64 hexadecimal digits, got \"12\"",
        ),
        (
            "sha256",
            json!("\u{e9}".repeat(32)),
            "expected 64 hexadecimal digits, got \"éééééééééééééééééééééééééééééééé\"",
        ),
        (
            "md5",
            json!("12"),
            "expected 32 hexadecimal digits, got \"12\"",
        ),
        ("start", json!("yes"), "expected true or false, got \"yes\""),
    ] {
        assert_eq!(
            error(key, value),
            format!("program \"p\": setting {key:?}: {expected}")
        );
    }
}

/// Values that a kind takes, and values that it refuses.

#[test]
fn every_setting_takes_its_limits_and_refuses_what_is_beyond_in_the_same_words() {
    for key in keys::SETTINGS {
        let (good, bad) = samples(&key.kind);
        for name in std::iter::once(&key.name).chain(key.aliases) {
            for value in &good {
                with(name, value.clone()).unwrap();
            }
            for value in &bad {
                let error = error(name, value.clone());
                let begin = format!("program \"p\": setting \"{name}");
                assert!(error.starts_with(&begin), "{error}");
                assert!(error.contains(": expected "), "{error}");
                if !matches!(key.kind, Kind::Texts { .. }) {
                    let expected = format!("expected {}", key.kind.expects());
                    assert!(error.contains(&expected), "{error}");
                }
            }
        }
    }
}

#[test]
fn no_spelling_stands_for_two_keys() {
    fn check<T>(table: &'static [Key<T>], seen: &mut BTreeSet<&'static str>) {
        for spelling in table::spellings(table) {
            assert!(seen.insert(spelling), "{spelling}");
        }
    }
    let mut seen = BTreeSet::new();
    check(keys::PROGRAM, &mut seen);
    check(keys::SETTINGS, &mut seen);
    check(keys::WARMUP, &mut BTreeSet::new());
    check(keys::DOWNLOAD, &mut BTreeSet::new());
    check(keys::SERVER, &mut BTreeSet::new());
    check(keys::PATH_RULE, &mut BTreeSet::new());
}

#[test]
fn more_virtual_cpus_than_possible_become_as_many_as_possible() {
    let (config, warnings) = one(r#"{"p": {"filename": "/p", "smp": 64}}"#);
    assert_eq!(config.settings.smp, 16);
    assert_eq!(
        texts(&warnings)[0],
        r#"program "p": setting "smp": 64 is more than possible, taken as 16"#
    );
}

#[test]
fn the_storage_limit_is_not_the_request_limit() {
    let settings = settings("max_storage_time", json!(99));
    assert_eq!(
        settings.max_request_time,
        Settings::default().max_request_time
    );
    assert_eq!(settings.max_storage_time, Duration::from_secs(99));
}

#[test]
fn the_address_space_holds_the_memory() {
    assert_eq!(
        settings("max_memory", json!(1023)).address_space,
        1024 * MIB
    );
    let (config, _) = one(r#"{"p": {"filename": "/p", "max_memory": 600, "address_space": 10}}"#);
    assert_eq!(config.settings.address_space, 600 * MIB);
    let (config, _) = one(
        r#"{"g": {"max_memory": 600}, "p": {"group": "g", "filename": "/p", "address_space": 10}}"#,
    );
    assert_eq!(config.settings.address_space, 600 * MIB);
}

#[test]
fn keeping_working_memory_means_being_ephemeral() {
    let text =
        r#"{"p": {"filename": "/p", "ephemeral": false, "ephemeral_keep_working_memory": true}}"#;
    assert!(one(text).0.settings.ephemeral);
}

#[test]
fn a_relative_path_of_the_host_is_taken_with_a_warning_that_says_what_it_is_relative_to() {
    let (config, warnings) = one(r#"{"p": {
            "filename": "bin/p",
            "allowed_paths": [
                "/a", "b", {"real": "c", "virtual": "/c"}, {"real": "/d", "virtual": "d"},
                {"real": "e", "virtual": "/e", "symlink": true}, "$PWD/f"
            ],
            "download": [{"uri": "http://h/x", "filepath": "x"}]
        }}"#);
    assert_eq!(config.filename, Some(PathBuf::from("bin/p")));
    let expected = [
        ("filename", "bin/p"),
        ("allowed_paths[1]", "b"),
        ("allowed_paths[2]", "c"),
        ("download[0].filepath", "x"),
    ];
    let mut told = texts(&warnings);
    told.sort();
    let mut expected = expected.map(|(key, path)| {
        format!(
            "program \"p\": setting {key:?}: {path:?} is relative to varnishd's working directory, \
             \"/work\"; an absolute path is the same everywhere"
        )
    });
    expected.sort();
    assert_eq!(told, expected);
}

#[test]
fn an_expansion_without_value_is_an_error_that_names_it() {
    let document = Document::parse_after(
        r#"{"p": {"filename": "$HOME/p"}}"#,
        "x",
        &Groups::default(),
        &Expansion::default(),
    );
    assert_eq!(
        document.unwrap_err().to_string(),
        r#"program "p": setting "filename": expected a string without $HOME, which has no value here, got "$HOME/p""#
    );
}

#[test]
fn long_values_are_cut_in_messages() {
    let message = error("max_memory", json!("x".repeat(100_000)));
    assert!(message.len() < 300, "{}", message.len());
    let message = with(&"k".repeat(100_000), json!(1)).map(|_| ());
    assert!(message.is_ok());
    let (_, warnings) = one(&json!({"p": {"filename": "/p", "k".repeat(100_000): 1}}).to_string());
    assert!(warnings[0].to_string().len() < 300);
}

#[test]
fn the_documentation_says_what_the_tables_say() {
    const BEGIN: &str = "<!-- generated: begin -->\n\n";
    const END: &str = "<!-- generated: end -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (shown, behind) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{}{END}{behind}", reference())).unwrap();
        return;
    }
    assert!(
        shown == reference(),
        "docs/configuration.md is not up to date: run this test with UPDATE_DOCS=1"
    );
}

/// Values that a kind takes, and values that it refuses.
fn samples<T>(kind: &Kind<T>) -> (Vec<Value>, Vec<Value>) {
    let seconds = |time: &Duration| json!(time.as_secs_f64());
    match kind {
        Kind::Flag(_) => (
            vec![json!(true), json!(false)],
            vec![json!(0), json!("true"), json!(null)],
        ),
        Kind::Seconds { from, to, .. } => (
            vec![seconds(from), seconds(to), json!(1)],
            vec![
                json!(0),
                json!(-1),
                json!(1e300),
                json!("1"),
                json!(true),
                seconds(&(*to * 2)),
            ],
        ),
        Kind::Mib {
            from, to, multiple, ..
        } => {
            let mut bad = vec![
                json!(to + multiple),
                json!(-1),
                json!("abc"),
                json!(1.5),
                json!(true),
            ];
            bad.extend([json!([]), json!(u64::MAX), json!(1e300), json!(null)]);
            if *from > 0 {
                bad.push(json!(from - 1));
            }
            if *multiple > 1 {
                bad.push(json!(multiple + 1));
            }
            (vec![json!(from), json!(to), json!(2.0), json!(64)], bad)
        }
        Kind::Number {
            from, to, beyond, ..
        } => {
            let above = vec![json!(u64::from(*to) + 1), json!(u64::MAX)];
            let mut good = vec![json!(from), json!(to)];
            let mut bad = vec![json!(-1), json!("1"), json!(false), json!(0.5), json!({})];
            if *from > 0 {
                bad.push(json!(from - 1));
            }
            if *beyond == Beyond::Refused {
                &mut bad
            } else {
                &mut good
            }
            .extend(above);
            (good, bad)
        }
        Kind::Text { .. } | Kind::Path(_) => (
            vec![json!("/x"), json!("\u{e9}")],
            vec![json!(1), json!([]), json!("a\0b")],
        ),
        Kind::Texts { .. } => (
            vec![json!([]), json!(["a", ""])],
            vec![
                json!("a"),
                json!({}),
                json!([1]),
                json!(["a", null]),
                json!(["\0"]),
            ],
        ),
        // The good ones are in the test of each form.
        Kind::Special { .. } => (vec![], vec![json!(true), json!(-1), json!(null)]),
    }
}
