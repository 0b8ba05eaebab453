//! What is wrong with an experiment's file: all of it at once, each with its line, its key and what is allowed.

use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file that cannot be run, with everything that is wrong with it, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.told())]
pub struct BadExperiment {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl BadExperiment {
    fn told(&self) -> String {
        let (path, count) = (self.path.display(), self.problems.len());
        let lines: Vec<String> = self.problems.iter().map(|problem| format!("{path}:{problem}")).collect();
        match count {
            1 => lines.concat(),
            _ => format!("{path}: {count} problems; nothing was run\n  {}", lines.join("\n  ")),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// The key, with the tables that it is in: `engine[2].search.nprobe`; empty where the text is no TOML.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl std::fmt::Display for Problem {
    /// `12:9: engine[2].search.nprobe: ...`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Where something stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct At {
    pub(super) offset: usize,
    /// The key, with the tables that it is in.
    pub key: String,
}

impl At {
    pub(super) fn new(span: &Range<usize>, key: &str) -> Self {
        Self { offset: span.start, key: key.to_string() }
    }
}

/// A value with its place, so that what is found out about it later can still be told there.
#[derive(Debug, Clone, PartialEq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: At,
}

/// Collects what is wrong with one file.
#[derive(Debug)]
pub struct Problems {
    path: PathBuf,
    text: String,
    found: RefCell<Vec<(usize, String, String)>>,
}

impl Problems {
    pub(super) fn new(path: &Path, text: &str) -> Self {
        Self { path: path.to_path_buf(), text: text.to_string(), found: RefCell::default() }
    }

    /// Adds one.
    pub fn add(&self, at: &At, message: impl Into<String>) {
        self.found.borrow_mut().push((at.offset, at.key.clone(), message.into()));
    }

    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// All of them as one error; `Ok` where there is none.
    ///
    /// # Errors
    /// Where there is any.
    pub fn outcome(&self) -> Result<(), BadExperiment> {
        let mut found = self.found.borrow().clone();
        if found.is_empty() {
            return Ok(());
        }
        found.sort_by_key(|(offset, ..)| *offset);
        found.dedup();
        let problems = found.into_iter().map(|(offset, key, message)| {
            let (line, column) = self.place(offset);
            Problem { line, column, key, message }
        });
        Err(BadExperiment { path: self.path.clone(), problems: problems.collect() })
    }

    /// Line and column of a byte.
    fn place(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// The known name that is nearest to `name`, if one is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let wanted = plain(name);
    let nearest = known.iter().map(|&candidate| (distance(&wanted, &plain(candidate)), candidate)).min()?;
    // A third of the letters may be wrong; of short names one; but not all of them.
    let letters = wanted.chars().count().max(nearest.1.chars().count());
    (nearest.0 <= (letters / 3).max(1) && nearest.0 < letters).then_some(nearest.1)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen_are_understood() {
        let known = ["search_list", "nprobe", "k", "threads", "held_out"];
        for (slip, meant) in [
            ("serach_list", Some("search_list")),
            ("search-list", Some("search_list")),
            ("nprobes", Some("nprobe")),
            ("K", Some("k")),
            ("heldout", Some("held_out")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(slip, &known), meant, "{slip}");
        }
        assert_eq!((distance("abc", "acb"), distance("", "ab"), distance("kitten", "sitting")), (1, 2, 3));
    }

    #[test]
    fn problems_are_told_in_the_order_of_lines() {
        let problems = Problems::new(Path::new("füll.toml"), "k = 1\n  ö = 2\n");
        assert_eq!(problems.outcome(), Ok(()));
        problems.add(&At { offset: 8, key: "ö".into() }, "no");
        assert_eq!(problems.outcome().expect_err("one").to_string(), "füll.toml:2:3: ö: no");
        problems.add(&At { offset: 0, key: "k".into() }, "never");
        let told = problems.outcome().expect_err("two").to_string();
        assert_eq!(told, "füll.toml: 2 problems; nothing was run\n  füll.toml:1:1: k: never\n  füll.toml:2:3: ö: no");
        assert_eq!(problems.place(9999).0, 3, "past the end");
    }
}
