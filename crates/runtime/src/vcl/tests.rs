use std::fs;

use super::*;

/// A VCL with what the text defines.
fn vcl(text: &str) -> Vcl {
    let vcl = Vcl::new();
    assert_eq!(vcl.define(text, "test").unwrap(), []);
    vcl
}

#[test]
fn programs_are_found_by_their_whole_name_of_any_bytes() {
    let vcl =
        vcl(r#"{"p": {"filename": "/p"}, "pp": {"filename": "/p"}, "é x": {"filename": "/e"}}"#);
    assert_eq!(vcl.program(b"p").unwrap().name(), "p");
    assert_eq!(vcl.program("é x".as_bytes()).unwrap().name(), "é x");
    for name in [&b""[..], b"P", b"p ", b"p\0", b"\xff"] {
        assert!(vcl.program(name).is_none());
    }
    assert_eq!(vcl.names(), ["p", "pp", "é x"]);
}

#[test]
fn a_library_comes_from_a_file_and_its_errors_are_errors() {
    let path = std::env::temp_dir().join(format!("tinykvm-vcl-{}.json", std::process::id()));
    let uri = format!("file://{}", path.display());
    fs::write(&path, r#"{"p": {"filename": "/p", "smp": 2}}"#).unwrap();
    let vcl = Vcl::new();
    let warnings = vcl.library(&uri).unwrap();
    assert_eq!(
        warnings[0].to_string(),
        r#"program "p": setting "smp" has no effect: there is no multiprocessing"#
    );
    fs::write(&path, r#"{"q": {"filename": "/q"}, "r": {}"#).unwrap();
    let error = vcl.library(&uri).unwrap_err();
    assert!(!error.is_fetch());
    let expected = format!("{uri}: line 1, column 33: EOF while parsing an object");
    assert_eq!(error.to_string(), expected);
    fs::remove_file(&path).unwrap();
    assert!(vcl.library(&uri).unwrap_err().is_fetch());
    assert_eq!(vcl.names(), ["p"]);
}

#[test]
fn a_document_with_a_name_that_is_taken_changes_nothing() {
    let vcl = vcl(r#"{"p": {"filename": "/p"}}"#);
    let text = r#"{"g": {}, "a": {"filename": "/a"}, "p": {"filename": "/q"}}"#;
    assert_eq!(
        vcl.define(text, "test").unwrap_err().to_string(),
        r#"program "p" is defined twice: change it with configure() instead"#
    );
    assert_eq!(vcl.names(), ["p"]);
    let error = vcl
        .configure("x", r#"{"group": "g", "filename": "/x"}"#)
        .unwrap_err();
    assert!(
        error.to_string().contains("group \"g\" is not defined"),
        "{error}"
    );
}

#[test]
fn configure_changes_and_defines_with_the_groups_of_libraries() {
    let vcl = vcl(r#"{"g": {"concurrency": 5}}"#);
    vcl.configure("a", r#"{"group": "g", "filename": "/a"}"#)
        .unwrap();
    vcl.configure("a", r#"{"max_memory": 512}"#).unwrap();
    let table = vcl.table.read();
    let settings = &table.entries[&b"a"[..]].config.settings;
    assert_eq!((settings.concurrency, settings.max_memory), (5, 512 << 20));
    drop(table);
    let error = vcl
        .configure("b", r#"{"max_memory": 512}"#)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with(r#"program "b" is not known"#), "{error}");
    let error = vcl
        .configure("a", r#"{"concurrency": 0}"#)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        r#"program "a": setting "concurrency": expected a number from 1 to 255, got 0"#
    );
}

#[test]
fn equal_definitions_in_two_vcls_are_one_program_until_they_differ() {
    let text = r#"{"shared": {"filename": "/shared", "concurrency": 3}}"#;
    let (one, two) = (vcl(text), vcl(text));
    let program = one.program(b"shared").unwrap();
    assert!(Arc::ptr_eq(&program, &two.program(b"shared").unwrap()));
    two.configure("shared", "{}").unwrap();
    assert!(Arc::ptr_eq(&program, &two.program(b"shared").unwrap()));
    two.configure("shared", r#"{"concurrency": 4}"#).unwrap();
    assert!(!Arc::ptr_eq(&program, &two.program(b"shared").unwrap()));
    assert!(Arc::ptr_eq(&program, &one.program(b"shared").unwrap()));
}

#[test]
fn a_program_ends_with_the_last_vcl_that_is_warm() {
    let text = r#"{"ends": {"filename": "/ends"}}"#;
    let (one, two) = (vcl(text), vcl(text));
    let program = Arc::downgrade(&one.program(b"ends").unwrap());
    two.program(b"ends").unwrap();
    one.cool();
    assert!(program.upgrade().is_some());
    one.program(b"ends").unwrap();
    drop(two);
    assert!(program.upgrade().is_some());
    drop(one);
    assert!(program.upgrade().is_none());
}

#[test]
fn a_vcl_that_has_not_used_a_program_yet_keeps_it_for_the_one_that_goes() {
    let text = r#"{"stays": {"filename": "/stays"}}"#;
    let (old, new) = (vcl(text), vcl(text));
    old.warm();
    new.warm();
    let program = old.program(b"stays").unwrap();
    drop(old);
    let program = Arc::downgrade(&program);
    let kept = new.program(b"stays").unwrap();
    assert!(Arc::ptr_eq(&program.upgrade().unwrap(), &kept));
    assert_eq!(kept.phase(), Phase::Unloaded);
}

#[test]
fn main_arguments_of_a_program_that_is_not_loaded_count_at_once() {
    let vcl = vcl(r#"{"args": {"filename": "/args", "main_arguments": ["old"]}}"#);
    let before = vcl.program(b"args").unwrap();
    vcl.main_arguments("args", vec![b"\xff".to_vec()]).unwrap();
    let after = vcl.program(b"args").unwrap();
    assert!(!Arc::ptr_eq(&before, &after));
    vcl.main_arguments("args", vec![b"\xff".to_vec()]).unwrap();
    assert!(Arc::ptr_eq(&after, &vcl.program(b"args").unwrap()));
    assert_eq!(
        vcl.main_arguments("x", vec![]).unwrap_err().to_string(),
        "program \"x\" is not known"
    );
    assert!(matches!(
        vcl.start("x"),
        Err(ConfigError::UnknownProgram { .. })
    ));
}

#[test]
fn invalidate_counts_what_matches_anywhere_in_the_name() {
    let vcl = vcl(
        r#"{"app.one": {"filename": "/1"}, "app.two": {"filename": "/2"}, "x": {"filename": "/3"}}"#,
    );
    assert_eq!(vcl.invalidate("").unwrap(), 3);
    assert_eq!(vcl.invalidate("app").unwrap(), 2);
    assert_eq!(vcl.invalidate("^one").unwrap(), 0);
    assert_eq!(vcl.invalidate("one$|^x$").unwrap(), 2);
    assert!(vcl.invalidate("(").is_err());
}

#[test]
fn stats_without_a_loaded_program_are_null() {
    let vcl = vcl(r#"{"p": {"filename": "/p"}}"#);
    vcl.program(b"p").unwrap();
    assert_eq!(vcl.stats("", -1).unwrap(), "null");
    assert_eq!(vcl.stats("nothing", 4).unwrap(), "null");
    assert!(vcl.stats("(", 4).is_err());
    assert_eq!(Vcl::new().stats("", -1).unwrap(), "null");
}

#[test]
fn stats_are_indented_as_asked_within_limits() {
    let Value::Object(all) = serde_json::json!({"p": {"a": [1]}}) else {
        panic!("an object")
    };
    let compact = r#"{"p":{"a":[1]}}"#;
    for indentation in [-1, -2, i64::MIN] {
        assert_eq!(text(&all, indentation), compact);
    }
    assert_eq!(text(&all, 0), "{\n\"p\": {\n\"a\": [\n1\n]\n}\n}");
    assert_eq!(text(&all, 1), "{\n \"p\": {\n  \"a\": [\n   1\n  ]\n }\n}");
    assert_eq!(text(&all, i64::MAX), text(&all, 16));
    assert!(text(&all, 17).contains(&format!("\n{}\"p\"", " ".repeat(16))));
}
