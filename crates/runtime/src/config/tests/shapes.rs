//! Values with a form of their own.

use super::*;
use crate::outgoing::FetchRule;

#[test]
fn remappings_are_addresses_with_sizes_or_ends() {
    let area = |address, mib, access| Remapping {
        address,
        size: mib * MIB,
        access,
    };
    assert_eq!(
        settings("remapping", json!(["0xC000000000", 64])).remappings,
        [area(0xC0_0000_0000, 64, Access::ReadWrite)]
    );
    assert_eq!(
        settings(
            "executable_remapping",
            json!({"b": ["1000000000", 1], "a": ["0x20000", "0x320001"]})
        )
        .remappings,
        [
            area(0x20000, 3, Access::ReadWriteExecute),
            area(0x10_0000_0000, 1, Access::ReadWriteExecute)
        ]
    );
    assert_eq!(
        settings("blackout_area", json!(["0x20000", "0x20000"])).remappings,
        [area(0x20000, 0, Access::Nothing)]
    );
    for bad in [
        json!(["0x1ffff", 1]),
        json!(["0x20000"]),
        json!(["0x20000", 1, 1]),
        json!(["0x20000", -1]),
        json!(["0x20000", "0x1ffff"]),
        json!(["0x20000", 1u64 << 44]),
        json!(["0x20000", "0xffffffffffffffff"]),
        json!(["0xffffffffffffffff", 1]),
        json!(["-0x20000", 1]),
        json!(["+20000", 1]),
        json!([131072, 1]),
        json!(["xyz", 1]),
        json!({"a": "0x20000"}),
        json!("0x20000"),
    ] {
        assert!(
            error("remapping", bad.clone()).contains("setting \"remapping"),
            "{bad}"
        );
    }
}

#[test]
fn allowed_fetch_lists_places_of_the_web() {
    let value = json!([
        "https://Example.com:443/a/",
        "http://h",
        "*",
        "http://h:80/"
    ]);
    let rules = settings("allowed_fetch", value).allowed_fetch;
    let expected = ["https://example.com/a/", "http://h/", "*"];
    let expected = expected.map(|text| FetchRule::parse(text).unwrap());
    assert_eq!(rules, expected);
    for (bad, place) in [
        (json!("*"), "allowed_fetch"),
        (json!([1]), "allowed_fetch[0]"),
        (json!(["*", "file:///etc"]), "allowed_fetch[1]"),
        (json!(["example.com"]), "allowed_fetch[0]"),
        (json!(["http://user@h/"]), "allowed_fetch[0]"),
        (json!(["*.example.com"]), "allowed_fetch[0]"),
    ] {
        let message = error("allowed_fetch", bad);
        assert!(message.contains(place), "{message}");
    }
}

#[test]
fn allowed_paths_are_names_or_rules() {
    let rule = |real: &str, virtual_path: &str| PathRule {
        real: real.into(),
        virtual_path: virtual_path.into(),
        ..PathRule::default()
    };
    let value = json!([
        "$HOME/a",
        {"real": "$PWD/b"},
        {"real": "/c", "virtual": "$HOME", "prefix": true},
        {"real": "/d", "virtual": "", "writable": true, "prefix": false},
        {"real": "/e", "virtual": "/f", "symlink": true},
        {"real": "/e", "virtual": "/f", "symlink": true, "writable": false},
    ]);
    assert_eq!(
        settings("allowed_paths", value).allowed_paths,
        [
            rule("/home/v/a", "/home/v/a"),
            rule("/work/b", "/work/b"),
            PathRule {
                prefix: true,
                ..rule("/c", "$HOME")
            },
            PathRule {
                writable: true,
                ..rule("/d", "/d")
            },
            PathRule {
                symlink: true,
                ..rule("/e", "/f")
            },
            rule("/e", "/f"),
        ]
    );
    for (bad, place) in [
        (json!("/a"), "allowed_paths"),
        (json!([""]), "allowed_paths[0]"),
        (json!(["/a", 1]), "allowed_paths[1]"),
        (json!([{}]), "allowed_paths[0]"),
        (json!([{"real": ""}]), "allowed_paths[0]"),
        (json!([{"real": 1}]), "allowed_paths[0].real"),
        (
            json!([{"real": "/a", "prefix": "yes"}]),
            "allowed_paths[0].prefix",
        ),
        (json!([{"real": "/a", "symlink": true}]), "allowed_paths[0]"),
    ] {
        let message = error("allowed_paths", bad);
        assert!(
            message.contains(&format!("setting {place:?}: expected")),
            "{message}"
        );
    }
}

#[test]
fn downloads_need_an_address_and_a_place() {
    let hash = "00".repeat(32);
    let value = json!([{"uri": "https://h/x", "filepath": "/x", "sha256": hash}]);
    assert_eq!(
        settings("download", value).download,
        [Download {
            uri: "https://h/x".into(),
            filepath: "/x".into(),
            sha256: Some([0; 32])
        }]
    );
    for bad in [
        json!({}),
        json!(["x"]),
        json!([{"uri": "https://h/x"}]),
        json!([{"filepath": "/x"}]),
        json!([{"uri": "x", "filepath": "/x"}]),
        json!([{"uri": "https://h/x", "filepath": "/x", "sha256": "z"}]),
    ] {
        assert!(error("download", bad).contains("setting \"download"));
    }
}

#[test]
fn servers_need_somewhere_to_listen() {
    let server = settings("server", json!({"port": 65535, "systems": 3}))
        .server
        .unwrap();
    assert_eq!((server.port, server.systems), (Some(65535), 3));
    let server = settings("server", json!({"path": "/s"})).server.unwrap();
    assert_eq!(
        (server.port, server.path.as_str(), server.systems),
        (None, "/s", 1)
    );
    assert!(
        settings("websocket_server", json!({"port": 1}))
            .websocket_server
            .is_some()
    );
    for bad in [
        json!({}),
        json!({"port": 0}),
        json!({"port": 65536}),
        json!({"port": "1"}),
        json!(1),
    ] {
        assert!(
            error("server", bad.clone()).contains("setting \"server"),
            "{bad}"
        );
        assert!(error("websocket_server", bad).contains("setting \"websocket_server"));
    }
    assert!(error("websocket_server", json!({"path": "/s"})).contains("with \"port\""));
}

#[test]
fn warmup_has_defaults_and_keeps_its_own_header() {
    assert_eq!(
        settings("warmup", json!({})).warmup,
        Some(Warmup::default())
    );
    let value = json!({"num_requests": 5, "exact": true, "url": "/w", "method": "HEAD", "headers": ["A: b"]});
    let expected = Warmup {
        num_requests: 5,
        exact: true,
        url: "/w".into(),
        method: "HEAD".into(),
        headers: BTreeSet::from(["A: b".into(), "User-Agent: tinykvm".into()]),
    };
    assert_eq!(settings("warmup", value).warmup, Some(expected));
    for bad in [
        json!([]),
        json!({"num_requests": 65536}),
        json!({"headers": ["no colon"]}),
        json!({"headers": [": x"]}),
        json!({"headers": ["A: b\r\nC: d"]}),
        json!({"url": 1}),
    ] {
        assert!(error("warmup", bad).contains("setting \"warmup"));
    }
}

#[test]
fn an_error_in_a_list_names_the_element_and_its_value() {
    for (key, value, place, got) in [
        ("main_arguments", json!(["a", 1]), "main_arguments[1]", "1"),
        (
            "environment",
            json!(["A=1", true]),
            "environment[1]",
            "true",
        ),
        (
            "remapping",
            json!(["0x1ffff", 1]),
            "remapping[0]",
            "\"0x1ffff\"",
        ),
        ("remapping", json!(["0x20000", -1]), "remapping[1]", "-1"),
        (
            "remapping",
            json!(["0x20000"]),
            "remapping",
            "[\"0x20000\"]",
        ),
        (
            "remapping",
            json!([["0x20000", 1]]),
            "remapping",
            "[[\"0x20000\",1]]",
        ),
        (
            "blackout_area",
            json!({"a": ["0x20000", 1], "b": ["0x20000", "end"]}),
            "blackout_area.b[1]",
            "\"end\"",
        ),
        (
            "executable_remapping",
            json!({"a": ["0x20000", 1], "b": "0x20000"}),
            "executable_remapping.b",
            "\"0x20000\"",
        ),
        ("allowed_fetch", json!(["*", 1]), "allowed_fetch[1]", "1"),
        (
            "allowed_fetch",
            json!(["*", "file:///etc"]),
            "allowed_fetch[1]",
            "\"file:///etc\": ",
        ),
        (
            "allowed_paths",
            json!(["/a", null]),
            "allowed_paths[1]",
            "null",
        ),
        (
            "download",
            json!([{"uri": "ftp://h/x", "filepath": "/x"}]),
            "download[0].uri",
            "\"ftp://h/x\"",
        ),
        (
            "warmup",
            json!({"headers": ["A: b", "no colon"]}),
            "warmup.headers[1]",
            "\"no colon\"",
        ),
    ] {
        let message = error(key, value);
        let begin = format!("program \"p\": setting {place:?}: expected ");
        assert!(message.starts_with(&begin), "{message}");
        assert!(message.contains(&format!(", got {got}")), "{message}");
    }
    let long = error("allowed_fetch", json!(["x".repeat(10_000)]));
    assert!(long.len() < 500, "{long}");
}

#[test]
fn environment_is_names_with_values() {
    assert_eq!(
        error("environment", json!(["A=1", "B"])),
        "program \"p\": setting \"environment[1]\": expected \"NAME=value\", got \"B\""
    );
    assert!(error("environment", json!(["=x"])).contains("NAME=value"));
    assert!(error("current_working_directory", json!("x")).contains("begins with /"));
}
