use super::super::table::{CALLS, find};

#[test]
fn the_table_is_in_the_order_of_its_numbers() {
    assert!(CALLS.is_sorted_by(|a, b| a.number < b.number));
    for call in CALLS {
        let number = u64::try_from(call.number).unwrap();
        assert_eq!(find(number).map(|found| found.name), Some(call.name));
    }
}

#[test]
fn every_call_is_described_and_every_described_call_exists() {
    let text = include_str!("../../../../../docs/system-calls.md");
    let mut described: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" |").next())
        .flat_map(|names| names.split(','))
        .map(|name| name.trim().trim_matches('`'))
        .collect();
    described.sort_unstable();
    let mut known: Vec<&str> = CALLS
        .iter()
        .map(|call| call.name.trim_start_matches("SYS_"))
        .collect();
    known.sort_unstable();
    assert_eq!(described, known);
}
