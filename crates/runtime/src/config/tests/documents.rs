//! Documents, layers, unknown keys, warnings.

use super::*;

#[test]
fn groups_are_settings_that_programs_start_from() {
    let document = parse(
        r#"{
            // A group and two programs.
            "slow": {"max_request_time": 30, "environment": ["A=1"], "main_arguments": ["x"]},
            "b": {"group": "slow", "filename": "/b", "environment": ["B=2"], "main_arguments": ["y"]},
            "a": {"uri": "https://host/a", /* no group */ "concurrency": 7}
        }"#,
    )
    .unwrap();
    assert_eq!(document.warnings, []);
    let [a, b] = &document.programs[..] else {
        panic!("two programs")
    };
    assert_eq!((a.name.as_str(), a.group.as_str()), ("a", "test"));
    assert_eq!(
        a.settings,
        Settings {
            concurrency: 7,
            ..Settings::default()
        }
    );
    assert_eq!((b.name.as_str(), b.group.as_str()), ("b", "slow"));
    assert_eq!(b.filename, Some(PathBuf::from("/b")));
    let expected = Settings {
        max_request_time: Duration::from_secs(30),
        environment: vec!["A=1".into(), "B=2".into()],
        main_arguments: vec![b"y".to_vec()],
        ..Settings::default()
    };
    assert_eq!(b.settings, expected);
}

#[test]
fn the_built_in_group_can_be_changed_and_later_documents_see_it() {
    let first = parse(r#"{"test": {"concurrency": 9}, "other": {"max_memory": 512}}"#).unwrap();
    assert_eq!(first.programs, []);
    let second = Document::parse_after(
        r#"{"p": {"filename": "/p"}, "q": {"filename": "/q", "group": "other"}, "other": {"smp": 0}}"#,
        "second",
        &first.groups,
        &expansion(),
    )
    .unwrap();
    assert_eq!(second.programs[0].settings.concurrency, 9);
    assert_eq!(second.programs[1].settings.max_memory, 512 * MIB);
}

#[test]
fn configure_is_a_third_layer_that_is_taken_whole_or_not_at_all() {
    let (mut config, _) = one(
        r#"{"p": {"filename": "/p", "environment": ["A=1"], "main_arguments": ["x"], "concurrency": 3}}"#,
    );
    let layer =
        r#"{"environment": ["B=2"], "main_arguments": ["y", "z"], /**/ "max_boot_time": 1}"#;
    assert_eq!(apply(&mut config, layer, &expansion()).unwrap(), []);
    assert_eq!(config.settings.environment, ["A=1", "B=2"]);
    assert_eq!(config.settings.main_arguments, [b"y", b"z"]);
    assert_eq!(config.settings.max_boot_time, Duration::from_secs(1));
    assert_eq!(config.settings.concurrency, 3);

    let before = config.clone();
    let bad = r#"{"concurrency": 9, "max_memory": "abc"}"#;
    let error = apply(&mut config, bad, &expansion())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        r#"program "p": setting "max_memory": expected a number of MiB from 1 to 524288, got "abc""#
    );
    assert_eq!(config, before);
    assert_eq!(
        apply(&mut config, "[]", &expansion())
            .unwrap_err()
            .to_string(),
        r#"program "p": expected an object of settings, got a list"#
    );
}

#[test]
fn configure_says_which_keys_count_only_at_the_definition() {
    let (mut config, _) = one(r#"{"p": {"filename": "/p"}}"#);
    let before = config.clone();
    let warnings = apply(
        &mut config,
        r#"{"uri": "http://x/", "start": true}"#,
        &expansion(),
    );
    assert_eq!(
        texts(&warnings.unwrap()),
        [
            r#"program "p": setting "start" counts only where the program is defined, ignored here"#,
            r#"program "p": setting "uri" counts only where the program is defined, ignored here"#,
        ]
    );
    assert_eq!(config, before);
}

#[test]
fn configure_defines_a_program_that_is_not_known_with_the_groups_of_libraries() {
    let groups = parse(r#"{"g": {"concurrency": 4}}"#).unwrap().groups;
    let (config, warnings) = define(
        "p\"q",
        r#"{"group": "g", "filename": "/f"}"#,
        &groups,
        &expansion(),
    )
    .unwrap();
    assert_eq!(
        (config.name.as_str(), config.settings.concurrency),
        ("p\"q", 4)
    );
    assert_eq!(warnings, []);
    let long = json!({"filename": "/f", "main_arguments": ["x".repeat(100_000)]}).to_string();
    assert!(define("p", &long, &groups, &expansion()).is_ok());
    let error = define("p", r#"{"concurrency": 4}"#, &groups, &expansion()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "program \"p\" is not known: define it in a library, or give \"filename\" or \"uri\" here"
    );
    let error = define("p", r#"{"smp": 4, "filname": "/f"}"#, &groups, &expansion()).unwrap_err();
    let text = error.to_string();
    let hint = r#"here; there is "filname", did you mean "filename"?"#;
    assert!(text.ends_with(hint), "{text}");
}

#[test]
fn the_last_of_two_equal_keys_wins() {
    let (config, _) = one(
        r#"{"p": {"filename": "/a"}, "p": {"filename": "/b", "concurrency": 3, "concurrency": 4}}"#,
    );
    assert_eq!(config.filename, Some(PathBuf::from("/b")));
    assert_eq!(config.settings.concurrency, 4);
}

#[test]
fn errors_of_form_say_where_and_what() {
    for (text, expected) in [
        ("", "test.json: line 1, column 0: EOF while parsing a value"),
        (
            "{\n  \"p\": {,}\n}",
            "test.json: line 2, column 9: key must be a string",
        ),
        (
            "{\"a\": {}, // x\n}",
            "test.json: line 2, column 1: trailing comma",
        ),
        (
            "{}\n/* x",
            "test.json: line 2, column 0: a comment that begins here has no end",
        ),
        (
            "[1]",
            "test.json: expected an object of programs and groups, got a list",
        ),
        (
            "\"x\"",
            "test.json: expected an object of programs and groups, got \"x\"",
        ),
        (
            "{\"g\": 1}",
            "group \"g\": expected an object of settings, got 1",
        ),
        (
            "{\"\": {}}",
            "group \"\": a name has 1 to 255 bytes and no control characters",
        ),
        (
            "{\"a\\nb\": {\"filename\": \"/f\"}}",
            "program \"a\\nb\": a name has 1 to 255 bytes and no control characters",
        ),
        (
            "{\"p\": {\"filename\": \"\", \"uri\": \"\"}}",
            "program \"p\": needs \"filename\" or \"uri\"",
        ),
        (
            "{\"p\": {\"group\": \"\"}}",
            "program \"p\": needs \"filename\" or \"uri\"",
        ),
        (
            "{\"g\": {}, \"p\": {\"group\": \"gg\", \"filename\": \"/f\"}}",
            "program \"p\": group \"gg\" is not defined; known are \"g\", \"test\"",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    }
    assert!(parse(&"[".repeat(100_000)).is_err());
}

#[test]
fn unknown_keys_are_warnings_that_name_the_nearest_known_one() {
    let (_, warnings) = one(
        r#"{"p": {"filename": "/p", "max_work_memory": 1, "concurency": 2, "xyzzy": [], "ke": ""}}"#,
    );
    assert_eq!(
        texts(&warnings),
        [
            r#"program "p": setting "concurency" is not known; did you mean "concurrency"?"#,
            r#"program "p": setting "ke" is not known; did you mean "key"?"#,
            r#"program "p": setting "max_work_memory" is not known; did you mean "max_memory"?"#,
            r#"program "p": setting "xyzzy" is not known"#,
        ]
    );
    let document = parse(r#"{"g": {"max_time": 1}}"#).unwrap();
    assert_eq!(
        texts(&document.warnings),
        [r#"group "g": setting "max_time" is not known"#]
    );
}

#[test]
fn unknown_keys_are_errors_where_the_document_is_strict() {
    let message = r#"program "p": setting "concurency" is not known; did you mean "concurrency"?, and the configuration is strict"#;
    for text in [
        r#"{"strict": true, "p": {"filename": "/p", "concurency": 2}}"#,
        r#"{"p": {"filename": "/p", "concurency": 2, "strict": true}}"#,
        r#"{"g": {"strict": true}, "p": {"group": "g", "filename": "/p", "concurency": 2}}"#,
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
    }
    for text in [
        r#"{"strict": false, "p": {"filename": "/p", "concurency": 2}}"#,
        r#"{"strict": true, "p": {"filename": "/p", "concurency": 2, "strict": false}}"#,
    ] {
        assert_eq!(parse(text).unwrap().warnings.len(), 1, "{text}");
    }
    let nested = r#"{"strict": true, "p": {"filename": "/p", "warmup": {"urls": "/"}}}"#;
    assert_eq!(
        parse(nested).unwrap_err().to_string(),
        r#"program "p": setting "warmup.urls" is not known; did you mean "url"?, and the configuration is strict"#
    );
    let (mut config, _) = one(r#"{"p": {"filename": "/p", "strict": true}}"#);
    assert!(apply(&mut config, r#"{"concurency": 2}"#, &expansion()).is_err());
    // An entry may have the name.
    assert_eq!(one(r#"{"strict": {"filename": "/p"}}"#).0.name, "strict");
}

#[test]
fn warnings_are_bounded_however_many_there_are() {
    let keys: Vec<String> = (0..5000)
        .map(|number| format!("\"unknown{number}\": 1"))
        .collect();
    let document = parse(&format!("{{\"g\": {{{}}}}}", keys.join(","))).unwrap();
    assert_eq!(document.warnings.len(), 101);
    assert_eq!(document.warnings[100].to_string(), "and 4900 more warnings");
}

#[test]
fn settings_that_change_nothing_say_so_unless_they_are_at_their_default() {
    let (_, warnings) = one(
        r#"{"p": {"filename": "/p", "smp": 4, "hugepages": false, "mmap_backed_files": false,
            "md5": "0123456789abcdef0123456789ABCDEF"}}"#,
    );
    assert_eq!(
        texts(&warnings),
        [
            r#"program "p": setting "md5" has no effect: use sha256"#,
            r#"program "p": setting "smp" has no effect: there is no multiprocessing"#,
        ]
    );
}

#[test]
fn a_name_that_is_not_replaced_is_worth_a_warning() {
    let (config, warnings) = one(r#"{"p": {"filename": "$HOME/p", "environment": ["A=$B"]}}"#);
    assert_eq!(config.settings.environment, ["A=$B"]);
    assert_eq!(
        texts(&warnings),
        [
            r#"program "p": setting "environment[0]": "$B" is taken as it stands; only $HOME and $PWD are replaced"#
        ]
    );
}
