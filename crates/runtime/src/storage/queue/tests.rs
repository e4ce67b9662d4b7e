use super::*;
use crate::storage::errand::Work;

const MS: Duration = Duration::from_millis(1);

fn task(number: u8) -> Task {
    Task {
        function: GuestVirt::new(u64::from(number)),
        data: vec![number].into(),
    }
}

fn errand(number: u64) -> Errand {
    let work = Work::Save {
        function: GuestVirt::new(number),
        max: 0,
    };
    Errand::new(work).0
}

/// What comes next, as a number: a task's function, an errand's plus 1000.
fn number(next: &Next) -> Option<u64> {
    match next {
        Next::Task(task) => Some(task.function.raw()),
        Next::Errand(errand, _) => match errand.work {
            Work::Save { function, .. } => Some(function.raw() + 1000),
            _ => None,
        },
        Next::Sleep(_) => None,
    }
}

#[test]
fn who_waits_longest_is_served_first_timers_included() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.push(errand(1), now).unwrap();
    assert!(queue.push_task(task(2), now + MS));
    let timer = queue.push_timer(task(3), now + MS * 2, Some(MS * 10), false);
    assert_eq!(timer, Some(1));
    queue.push(errand(4), now + MS * 3).unwrap();
    let later = now + MS * 5;
    let order: Vec<_> = (0..5).map(|_| number(&queue.next(later))).collect();
    assert_eq!(order, [Some(1001), Some(2), Some(3), Some(1004), None]);
    assert!(matches!(queue.next(later), Next::Sleep(Some(due)) if due == now + MS * 12));
}

#[test]
fn a_late_timer_runs_once_for_all_the_times_that_it_missed() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue
        .push_timer(task(1), now, Some(MS * 10), false)
        .unwrap();
    let later = now + MS * 95;
    assert_eq!(number(&queue.next(later)), Some(1));
    assert!(matches!(queue.next(later), Next::Sleep(Some(due)) if due == later + MS * 10));
}

#[test]
fn a_timer_that_ended_makes_room_and_its_number_is_not_used_again() {
    let mut queue = Queue::default();
    let now = Instant::now();
    for number in 1..=1000_i64 {
        assert_eq!(queue.push_timer(task(1), now, None, false), Some(number));
        assert_eq!(super::tests::number(&queue.next(now)), Some(1));
        assert!(!queue.stop_timer(number), "a timer that has run is over");
    }
    for _ in 0..MAX_TIMERS {
        assert!(queue.push_timer(task(1), now + MS, None, false).is_some());
    }
    assert_eq!(queue.push_timer(task(1), now, None, false), None);
    assert!(queue.stop_timer(1001));
    assert!(!queue.stop_timer(1001));
    assert!(queue.push_timer(task(1), now, None, false).is_some());
    assert_eq!(queue.timers(), (MAX_TIMERS, MAX_TIMERS));
}

#[test]
fn tasks_are_bounded_in_number_and_in_bytes() {
    let mut queue = Queue::default();
    let now = Instant::now();
    for _ in 0..MAX_TASKS {
        assert!(queue.push_task(task(1), now));
    }
    assert!(!queue.push_task(task(1), now));
    while number(&queue.next(now)).is_some() {}
    let large = Task {
        function: GuestVirt::new(1),
        data: vec![0; MAX_TASK_BYTES / 2].into(),
    };
    assert!(queue.push_task(large.clone(), now));
    let timer = queue.push_timer(large.clone(), now + MS, Some(MS), false);
    assert!(timer.is_some());
    assert!(!queue.push_task(task(1), now));
    assert_eq!(queue.push_timer(task(1), now, None, false), None);
    assert!(queue.stop_timer(timer.unwrap()));
    assert!(queue.push_task(large, now));
}

#[test]
fn what_was_taken_back_does_not_run_and_what_has_begun_cannot_be_taken_back() {
    let mut queue = Queue::default();
    let now = Instant::now();
    let first = queue.push(errand(1), now).unwrap();
    let second = queue.push(errand(2), now).unwrap();
    assert!(queue.cancel(first).is_some());
    assert!(queue.cancel(first).is_none());
    assert_eq!(number(&queue.next(now)), Some(1002));
    assert!(queue.cancel(second).is_none());
}

#[test]
fn a_restart_goes_back_to_the_timers_of_the_start() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.push_timer(task(1), now, None, true).unwrap();
    let later = queue.push_timer(task(2), now, None, false).unwrap();
    queue.forget_timers_set_since_the_start();
    assert!(!queue.stop_timer(later));
    assert_eq!(number(&queue.next(now)), Some(1));
}

#[test]
fn a_closed_queue_takes_nothing_and_hands_back_what_waits() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.push(errand(1), now).unwrap();
    queue.push_task(task(1), now);
    queue.push_timer(task(2), now, None, true).unwrap();
    assert_eq!(queue.close().len(), 1);
    assert!(queue.push(errand(1), now).is_err());
    assert!(!queue.push_task(task(1), now));
    assert_eq!(queue.push_timer(task(1), now, None, true), None);
    assert!(matches!(queue.next(now), Next::Sleep(None)));
}
