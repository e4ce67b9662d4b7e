//! Two things measured in turns in one run. A ratio is made within a round, so that a machine whose
//! speed drifts does not matter; what counts is the median over the rounds.

use std::time::Duration;

pub(crate) struct Turns {
    /// Median seconds of the one and of the other.
    pub(crate) medians: [f64; 2],
    /// Lower quartile, median and upper quartile of the one by the other.
    pub(crate) ratios: [f64; 3],
}

pub(crate) fn in_turns(
    rounds: usize,
    one: impl Fn() -> Duration,
    other: impl Fn() -> Duration,
) -> Turns {
    // The first ones fill caches and make pages private.
    for _ in 0..rounds / 10 {
        one();
        other();
    }
    let times: Vec<_> = (0..rounds)
        .map(|_| (one().as_secs_f64(), other().as_secs_f64()))
        .collect();
    let [_, one, _] = quartiles(times.iter().map(|pair| pair.0));
    let [_, other, _] = quartiles(times.iter().map(|pair| pair.1));
    Turns {
        medians: [one, other],
        ratios: quartiles(times.iter().map(|(one, other)| one / other)),
    }
}

fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}
