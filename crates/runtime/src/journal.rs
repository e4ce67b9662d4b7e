//! What is to be said outside of any request: programs that start, fail to start, are replaced,
//! and what their `main()` prints. The VMOD sends it to the Varnish log, the command line to
//! standard error, tests may listen. Nobody listening is fine: nothing is buffered.

use std::sync::OnceLock;

use crate::exchange::Severity;

type Sink = Box<dyn Fn(Severity, &str, &[u8]) + Send + Sync>;

static SINK: OnceLock<Sink> = OnceLock::new();

/// Where lines go from now on: severity, program, line. The first call of the process wins.
pub fn listen(sink: impl Fn(Severity, &str, &[u8]) + Send + Sync + 'static) {
    let _already_set = SINK.set(Box::new(sink));
}

/// One line to the standard output of this process. Callers bound how many a guest can cause.
pub(crate) fn print(mut line: Vec<u8>) {
    use std::io::Write as _;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    // Nobody may be there to read it.
    let _lost = out.write_all(&line).and_then(|()| out.flush());
}

/// One line about a program. Callers bound how many a guest can cause.
pub(crate) fn say(severity: Severity, program: &str, line: &[u8]) {
    if let Some(sink) = SINK.get() {
        sink(severity, program, line);
    }
}
