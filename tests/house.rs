//! House rules that a machine can check: documents that name files and tests stay true, unsafe code
//! is where the list says, no file grows without end.

mod tree;

use std::collections::BTreeSet;
use std::path::Path;

use tree::{files, name, read, repository, rust_files};

#[test]
fn unsafe_code_is_only_where_the_list_says() {
    let list = read(&repository().join("docs/unsafe.md"));
    let listed: BTreeSet<String> = table(&list)
        .filter_map(|row| quoted(row.first()?))
        .collect();
    let mut found = BTreeSet::new();
    for folder in ["src", "crates", "vendor", "build.rs"] {
        let path = repository().join(folder);
        let sources = if path.is_file() {
            vec![path]
        } else {
            rust_files(&path)
        };
        for file in sources {
            let tests = file
                .components()
                .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches");
            if !tests && has_unsafe(&read(&file)) {
                found.insert(name(&file));
            }
        }
    }
    let missing: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(
        missing.is_empty(),
        "unsafe code that docs/unsafe.md does not list: {missing:?}"
    );
    assert!(
        gone.is_empty(),
        "docs/unsafe.md lists files without unsafe code: {gone:?}"
    );
}

#[test]
fn every_row_of_the_reset_inventory_names_a_test_that_exists() {
    let inventory = read(&repository().join("docs/reset-inventory.md"));
    each_row_names_tests("docs/reset-inventory.md", &inventory);
}

#[test]
fn every_defect_of_upstream_names_a_test_that_exists() {
    let page = read(&repository().join("docs/compatibility.md"));
    let (_, defects) = page
        .split_once("## Defects of upstream")
        .unwrap_or_default();
    each_row_names_tests("docs/compatibility.md", defects);
}

/// The last cell of each row of a table has names of tests in backticks, and all of them exist.
fn each_row_names_tests(document: &str, text: &str) {
    let mut sources = String::new();
    for folder in ["crates", "tests"] {
        for file in rust_files(&repository().join(folder)) {
            sources.push_str(&read(&file));
        }
    }
    let mut rows = 0;
    for row in table(text) {
        let tests: Vec<&str> = row
            .last()
            .map_or("", |cell| cell)
            .split('`')
            .skip(1)
            .step_by(2)
            .collect();
        assert!(
            !tests.is_empty(),
            "{document}: no test for {:?}",
            row.first()
        );
        for test in tests {
            let exists = sources.contains(&format!("fn {test}("))
                || repository().join("tests/vtc").join(test).is_file();
            assert!(exists, "{document} names {test}, which is no test");
        }
        rows += 1;
    }
    assert!(rows > 0, "{document} has no rows");
}

#[test]
fn links_in_documents_lead_somewhere() {
    for file in files(&repository(), "md") {
        let folder = file.parent().unwrap_or(Path::new("/"));
        for link in read(&file).split("](").skip(1) {
            let target = link.split([')', '#', ' ']).next().unwrap_or("");
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(
                folder.join(target).exists(),
                "{}: {target} is not there",
                name(&file)
            );
        }
    }
}

#[test]
fn nothing_of_a_merge_is_left_behind() {
    for extension in ["rs", "c", "h", "S", "md", "vcc", "vcl", "vtc", "sh", "toml"] {
        for file in files(&repository(), extension) {
            let left = read(&file).lines().any(|line| {
                ["=======", "<<<<<<< ", ">>>>>>> "].iter().any(|mark| {
                    line == mark.trim_end() || (mark.ends_with(' ') && line.starts_with(mark))
                })
            });
            assert!(!left, "{}: a line of a merge conflict", name(&file));
        }
    }
}

#[test]
fn no_source_file_is_longer_than_800_lines() {
    for extension in ["rs", "c", "h", "S"] {
        for file in files(&repository(), extension) {
            let lines = read(&file).lines().count();
            assert!(
                lines <= 800,
                "{}: {lines} lines; which second idea lives in it?",
                name(&file)
            );
        }
    }
}

#[test]
fn every_example_vcl_is_run_by_a_test() {
    let mut tests = String::new();
    for file in files(&repository().join("tests/vtc"), "vtc") {
        tests.push_str(&read(&file));
    }
    for file in files(&repository().join("vcl"), "vcl") {
        let name = name(&file);
        assert!(tests.contains(&name), "no .vtc runs {name}");
    }
}

/// Whether a Rust source has unsafe code; comments do not count.
fn has_unsafe(source: &str) -> bool {
    source.lines().any(|line| {
        let code = line.split("//").next().unwrap_or("");
        [
            "unsafe {",
            "unsafe fn",
            "unsafe impl",
            "unsafe extern",
            "unsafe trait",
            "unsafe(",
        ]
        .iter()
        .any(|word| code.contains(word))
    })
}

/// The cells of the rows of all tables, headings aside.
fn table(document: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with('|'))
        .collect();
    let headings: BTreeSet<usize> = rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.starts_with("| ---"))
        .flat_map(|(index, _)| [index, index.saturating_sub(1)])
        .collect();
    rows.into_iter()
        .enumerate()
        .filter(move |(index, _)| !headings.contains(index))
        .map(|(_, row)| row.trim_matches('|').split('|').map(str::trim).collect())
}

/// What stands between the first pair of backticks.
fn quoted(cell: &str) -> Option<String> {
    cell.split('`').nth(1).map(str::to_owned)
}
