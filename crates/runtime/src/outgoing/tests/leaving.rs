//! Fetches whose owners leave them behind, and programs that want more than their share.

use super::*;

/// A server that begins an answer and then says nothing. It tells when a connection has ended.
fn silent() -> (String, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://127.0.0.1:{}/",
        listener.local_addr().unwrap().port()
    );
    let (ended, ends) = channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let ended = ended.clone();
            thread::spawn(move || {
                let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxx".to_vec();
                serve(connection.unwrap(), &move |_: &str, _: &[u8]| begun.clone());
                let _nobody_asks = ended.send(());
            });
        }
    });
    (url, ends)
}

/// By a program, which waits longer than a test does.
fn patient<'a>(program: &str, url: &'a str) -> Wish<'a> {
    Wish {
        deadline: Instant::now() + LONG * 10,
        program: Some(program.into()),
        ..wish(url)
    }
}

#[test]
fn a_transfer_that_waits_for_a_silent_server_ends_when_its_owner_leaves() {
    let (url, ends) = silent();
    let from = home("", &url, 1, 0);
    for _ in 0..300 {
        let result = from.fetch(&patient("leaving", "/"), &[], &mut Full(1));
        assert_eq!(result, Err(FetchError::TooLarge(0)));
        ends.recv_timeout(LONG).unwrap();
        // The right to a self-request comes back with the end.
        let patience = Instant::now() + LONG;
        while from.home.as_ref().unwrap().permit().is_err() {
            assert!(Instant::now() < patience);
            thread::yield_now();
        }
    }
}

#[test]
fn fetches_that_one_program_leaves_behind_keep_no_other_from_its_own() {
    let (url, ends) = silent();
    let site = Site::start(|_, _| ok(b"x"));
    let (allowed, other) = (rules(std::slice::from_ref(&url)), site.home(1));
    let mut left = 0;
    for _ in 0..300 {
        match Outgoing::default().fetch(&patient("left-behind", &url), &allowed, &mut Full(1)) {
            Err(FetchError::TooLarge(_)) => left += 1,
            refused => assert_eq!(refused, Err(FetchError::Crowded(64))),
        }
        assert_eq!(body(other.self_request(b"/", &[], soon())), "x");
    }
    for _ in 0..left {
        ends.recv_timeout(LONG).unwrap();
    }
}

#[test]
fn a_program_has_its_share_of_fetches_at_once_and_others_have_theirs() {
    let (site, comes, go) = holding();
    let quick = Site::start(|_, _| ok(b"x"));
    let (slow_home, home) = (site.home(1000), quick.home(1));
    let ask = |home: &Outgoing, program| {
        let mut fetched = Fetched::default();
        let wish = Wish {
            deadline: soon(),
            ..patient(program, "/")
        };
        home.fetch(&wish, &[], &mut fetched)
            .map(|()| fetched.status)
    };
    thread::scope(|scope| {
        let held: Vec<_> = (0..64)
            .map(|_| scope.spawn(|| ask(&slow_home, "greedy")))
            .collect();
        for _ in &held {
            comes.recv_timeout(LONG).unwrap();
        }
        let refused = ask(&home, "greedy").unwrap_err();
        assert_eq!(
            (&refused, refused.status()),
            (&FetchError::Crowded(64), 503)
        );
        assert!(
            refused
                .to_string()
                .starts_with("64 requests of the program")
        );
        assert_eq!(ask(&home, "modest"), Ok(200));
        assert_eq!(body(home.self_request(b"/", &[], soon())), "x");
        for _ in &held {
            go.send(()).unwrap();
        }
        for one in held {
            assert_eq!(one.join().unwrap(), Ok(200));
        }
        assert_eq!(ask(&home, "greedy"), Ok(200));
    });
}
