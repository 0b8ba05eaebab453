//! DiskANN's Rust crates as a peer of Kiln: engines/diskann_rs.py runs this and talks JSON lines with it.
//!
//! Enters: two .npy files, base and queries, as arguments; then, on stdin, one {"do": "build"}, and {"do": "search"}
//! or {"do": "latency"} as often as wanted. Leaves: one line on stdout when the files are read, one for each command,
//! and the ids of a search in a .npy file. What cannot be done is one {"error": ...}, and the end of the process.

mod index;
mod matrix;
mod usage;

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use diskann_utils::views::rowmajor::Matrix;
use serde_json::{Value, json};

use crate::index::{Building, Element, Index, Searching};
use crate::matrix::{Dtype, Rows};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() {
    if let Err(error) = run() {
        say(&json!({ "error": error.to_string() })).ok(); // whoever does not listen any more needs no answer
        std::process::exit(1);
    }
}

fn run() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [base, queries] = arguments.as_slice() else { return Err("usage: diskann_rs BASE.npy QUERIES.npy".into()) };
    match matrix::dtype(base)? {
        Dtype::F32 => serve::<f32>(base, queries),
        Dtype::U8 => serve::<u8>(base, queries),
        Dtype::I8 => serve::<i8>(base, queries),
    }
}

fn serve<T: Element>(base: &Path, queries: &Path) -> Result<()> {
    let mut base = Some(matrix::read::<T>(base)?); // until it is in the index
    let queries = matrix::read::<T>(queries)?;
    let mut index = None;
    say(&json!({}))?;
    for line in std::io::stdin().lock().lines() {
        let command: Value = serde_json::from_str(&line?)?;
        let answer = match word(&command, "do")? {
            "build" => {
                let (built, facts) = build(base.take().ok_or("it is built already")?, &command)?;
                index = Some(built);
                facts
            }
            "search" => search(index.as_ref().ok_or("nothing is built")?, &queries, &command)?,
            "latency" => latency(index.as_ref().ok_or("nothing is built")?, &queries, &command)?,
            other => return Err(format!("there is no command {other}").into()),
        };
        say(&answer)?;
    }
    Ok(())
}

fn build<T: Element>(base: Rows<T>, command: &Value) -> Result<(Index<T>, Value)> {
    let building = Building {
        max_degree: number(command, "max_degree")?,
        search_list: number(command, "search_list")?,
        alpha: command["alpha"].as_f64().ok_or("alpha is not a number")? as f32,
        threads: number(command, "threads")?,
    };
    usage::reset_peak();
    let before = usage::resident_bytes();
    let started = usage::Instant::now();
    let index = Index::build(&base, &building)?;
    let (wall_seconds, cpu_seconds) = started.elapsed();
    let extra = before.zip(usage::peak_bytes()).map(|(before, peak)| peak.saturating_sub(before));
    let index_bytes = index.bytes()?;
    let facts = json!({
        "wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds, "extra_rss_bytes": extra, "index_bytes": index_bytes,
    });
    Ok((index, facts))
}

/// One pass over all queries.
fn search<T: Element>(index: &Index<T>, queries: &Rows<T>, command: &Value) -> Result<Value> {
    let searching = searching(command)?;
    let mut ids = vec![-1; queries.nrows() * searching.k];
    let started = usage::Instant::now();
    index.search(queries, &searching, &mut ids)?;
    let (wall_seconds, cpu_seconds) = started.elapsed();
    matrix::write_ids(Path::new(word(command, "ids")?), &ids, searching.k)?;
    Ok(json!({ "wall_seconds": wall_seconds, "cpu_seconds": cpu_seconds }))
}

/// The first queries, each timed.
fn latency<T: Element>(index: &Index<T>, queries: &Rows<T>, command: &Value) -> Result<Value> {
    let microseconds = index.latencies(queries, &searching(command)?, number(command, "queries")?)?;
    Ok(json!({ "microseconds": microseconds }))
}

fn searching(command: &Value) -> Result<Searching> {
    Ok(Searching { k: number(command, "k")?, search_list: number(command, "search_list")? })
}

fn number(command: &Value, name: &str) -> Result<usize> {
    Ok(command[name].as_u64().ok_or_else(|| format!("{name} is not a number: {command}"))?.try_into()?)
}

fn word<'a>(command: &'a Value, name: &str) -> Result<&'a str> {
    Ok(command[name].as_str().ok_or_else(|| format!("{name} is not a string: {command}"))?)
}

fn say(answer: &Value) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{answer}")?;
    Ok(stdout.flush()?)
}
