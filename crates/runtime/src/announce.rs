//! What the log says of a program that has started, where its settings ask for more than usual
//! (`verbose`, `verbose_pagetables`).

use sandbox::{Image, PAGE_SIZE};

use crate::exchange::Severity;
use crate::hypercalls::{Entry, EntryPoints};
use crate::journal;
use crate::recipe::Recipe;

/// A program with more mappings has only so many of them in the log.
const MOST_MAPPINGS: usize = 200;

const ENTRIES: [(Entry, &str); 8] = [
    (Entry::Recv, "on_recv"),
    (Entry::Get, "on_get"),
    (Entry::Post, "on_post"),
    (Entry::Request, "on_method"),
    (Entry::StreamPost, "on_stream_post"),
    (Entry::Error, "on_error"),
    (Entry::LiveUpdate, "on_live_update"),
    (Entry::LiveRestore, "on_live_restore"),
];

pub(crate) fn started(recipe: &Recipe, image: &Image, entry: &EntryPoints, ephemeral: bool) {
    let say = |line: String| journal::say(Severity::Info, &recipe.name, line.as_bytes());
    if recipe.voice.start {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        say(format!(
            "image of {} MiB in {} MiB of address space; {} request VMs, {}, with {} MiB each",
            mib(image.bytes()),
            mib(image.span()),
            recipe.concurrency,
            if ephemeral {
                "reset after each request"
            } else {
                "that keep their state"
            },
            mib(recipe.max_request_memory),
        ));
        say(format!(
            "waits at {:#x}: {:?}",
            image.registers().rip,
            entry.waiting()
        ));
        for (which, name) in ENTRIES {
            if let Some(at) = entry.get(which) {
                say(format!("{name} is at {at}"));
            }
        }
    }
    if recipe.voice.mappings {
        let mut rest = image.mappings();
        for (range, rights) in rest.by_ref().take(MOST_MAPPINGS) {
            let right = |has, letter| if has { letter } else { '-' };
            say(format!(
                "mapped {:#x}..{:#x} {}{}{} {} pages",
                range.start,
                range.end,
                right(rights.read, 'r'),
                right(rights.write, 'w'),
                right(rights.execute, 'x'),
                (range.end - range.start) / PAGE_SIZE,
            ));
        }
        let more = rest.count();
        if more > 0 {
            say(format!("and {more} more mappings"));
        }
    }
}
