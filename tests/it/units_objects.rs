//! One build by several machines over an object store: one that works, one that fails now and then, one that is down, and one
//! that forgets what it was given.

use crate::common::*;
use crate::object_server::{Answer, ObjectServer};

const WORK: &str = "s3://bucket/some/base.work";

/// A set of 3,000 rows, its index made in memory, a server of objects, and a plan there.
struct Task {
    place: Place,
    server: ObjectServer,
}

impl Task {
    fn planned() -> Self {
        let (place, server) = (Place::new(), ObjectServer::start());
        let size = ["--rows", "3000", "--dim", "24", "--lid", "8", "--dtype", "u8"];
        place.ok(&[&["datasets", "synth"], &size[..], &["--out", "base.u8bin"]].concat());
        let base = ["--dataset", "base.u8bin", "--metric", "l2", "--index", "vamana"];
        place.ok(&[&["build", "--device", "cpu", "--out", "memory.kiln"], &base[..]].concat());
        let task = Self { place, server };
        task.ok(
            "one",
            &[&["unit", "plan", "--memory-budget", "96MiB", "--work", WORK, "--out", "x.kiln"], &base[..]].concat(),
        );
        task
    }

    /// Runs the program on a machine of this name, which keeps its copies apart from the others'.
    fn run(&self, machine: &str, args: &[&str], retries: &str) -> Ran {
        let endpoint = format!("http://{}", self.server.address);
        let environment = [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_REGION", "nowhere"),
            ("AWS_TIMEOUT", "2s"),
            ("KILN_STORE_RETRIES", retries),
        ];
        self.place.run_with(&[args, &["--cache", machine]].concat(), &environment)
    }

    fn ok(&self, machine: &str, args: &[&str]) -> String {
        let ran = self.run(machine, args, "6");
        assert_eq!(ran.code, Some(0), "kiln {}: {}", args.join(" "), ran.err);
        ran.out
    }

    fn same(&self) {
        assert!(
            self.place.read("x.kiln") == self.place.read("memory.kiln"),
            "the bytes differ from those made in memory"
        );
    }
}

const ALL: [&str; 7] = ["unit", "build", "--work", WORK, "--device", "cpu", "--all"];
const MERGE: [&str; 6] = ["unit", "merge", "--work", WORK, "--device", "cpu"];

#[test]
fn machines_that_share_nothing_but_an_object_store_make_the_same_bytes() {
    let task = Task::planned();
    for stage in ["summary", "assign", "middle", "rows", "leaves", "prune", "graph", "repair", "place", "order"] {
        for (machine, share) in [("one", "0/2"), ("two", "1/2")] {
            let build = ["unit", "build", "--work", WORK, "--device", "cpu", "--stage", stage, "--share", share];
            // Less than all copies together take.
            task.ok(machine, &[&build[..], &["--cache-size", "900KB"]].concat());
        }
        task.ok("one", &["unit", "clean", "--work", WORK]);
    }
    assert!(!task.server.paths().iter().any(|path| path.contains("leaves") || path.contains("prune")));
    task.ok("three", &MERGE);
    task.same();
    let ran = task.run("one", &["unit", "clean", "--work", WORK, "--all"], "6");
    assert_eq!((ran.code, task.server.paths()), (Some(0), vec![]), "{}", ran.err);
}

#[test]
fn requests_that_fail_now_and_then_are_made_again() {
    let task = Task::planned();
    task.server.answer(|number, _| match number {
        7 => Answer::Never,
        _ => match number % 60 {
            11 => Answer::ServerError,
            27 => Answer::Dropped,
            43 => Answer::Half,
            _ => Answer::Whole,
        },
    });
    task.ok("one", &ALL);
    assert!(task.server.requests() > 60, "{}", task.server.requests());
    task.ok("two", &MERGE);
    task.same();
}

#[test]
fn a_store_that_is_down_or_unknown_is_told_with_its_address() {
    let task = Task::planned();
    task.server.answer(|_, path| if path.ends_with("plan.json") { Answer::Whole } else { Answer::ServerError });
    let ran = task.run("one", &ALL, "1");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_says(&ran.err, &["error: s3://bucket/some/base.work", "cannot list", "500"]);
    task.server.answer(|_, _| Answer::Dropped);
    let ran = task.run("one", &MERGE, "1");
    assert_says(&ran.err, &["error: s3://bucket/some/base.work/plan.json: cannot read"]);
    for (work, says) in [("s4://bucket/x", "s4:// is not known"), ("s3://", "s3")] {
        assert_says(&task.place.fails(1, &["unit", "status", "--work", work]), &[says]);
    }
    let ran = task.run("one", &["unit", "status", "--work", WORK], "some");
    assert_says(&ran.err, &["KILN_STORE_RETRIES=some"]);
}

#[test]
fn what_the_store_spoiled_is_made_again() {
    let task = Task::planned();
    let stage = |stage| ["unit", "build", "--work", WORK, "--device", "cpu", "--stage", stage];
    for name in ["summary", "assign", "middle", "rows", "leaves", "prune"] {
        task.ok("one", &stage(name));
    }
    let object = |unit: &str| format!("/bucket/some/base.work/{unit}");
    // The first byte of every segment, but not the footer.
    let damage = |bytes: &mut Vec<u8>| (0..bytes.len() * 3 / 4).step_by(4096).for_each(|at| bytes[at] ^= 1);
    for unit in ["rows-00002", "prune-00001", "leaves-00001"] {
        task.server.change(&object(unit), damage);
    }
    // A machine that has copies of the rows has whole ones.
    let ran = task.run("two", &stage("graph"), "6");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_says(&ran.err, &["rows-00002: damaged", "prune-00001: damaged", "leaves-00001: damaged", "made again"]);
    task.ok("two", &ALL);
    task.ok("three", &MERGE);
    task.same();
}
