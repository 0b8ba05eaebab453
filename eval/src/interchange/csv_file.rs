//! CSV, RFC 4180: the rows of [`table`](super::table), and those that cuvs-bench writes.
//!
//! In: rows, or a file. Out: a file in UTF-8 with names in the first line; or names and typed cells. Numbers are written in
//! the shortest form that reads back to the same bits.

use std::path::Path;

use super::table::{Cell, Kind, Table};
use super::{Format, InterchangeError, write_whole};

/// Writes rows under a header, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(path: &Path, header: &[(String, Kind)], rows: &[Vec<Cell>]) -> Result<(), InterchangeError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let refused = |error: csv::Error| InterchangeError::malformed(path, error.to_string(), "please report it");
    writer.write_record(header.iter().map(|(name, _)| name)).map_err(refused)?;
    for row in rows {
        writer.write_record(row.iter().map(printed)).map_err(refused)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|error| InterchangeError::malformed(path, error.error().to_string(), "please report it"))?;
    write_whole(path, &bytes)
}

fn printed(cell: &Cell) -> String {
    match cell {
        Cell::Empty => String::new(),
        Cell::Text(text) => text.clone(),
        Cell::Whole(value) => value.to_string(),
        Cell::Real(value) => value.to_string(),
        Cell::Flag(value) => value.to_string(),
    }
}

/// Reads a file whose columns have these kinds; a column of another name is text.
///
/// # Errors
/// When it is no CSV, or a cell does not hold what its column does.
pub(super) fn read(path: &Path, header: &[(String, Kind)]) -> Result<Table, InterchangeError> {
    let mut reader = open(path)?;
    let names = names(&mut reader, path)?;
    let kind = |name: &str| header.iter().find(|(known, _)| known == name).map_or(Kind::Text, |&(_, kind)| kind);
    let kinds: Vec<Kind> = names.iter().map(|name| kind(name)).collect();
    let mut rows = Vec::new();
    for (number, record) in reader.records().enumerate() {
        let record = record.map_err(|error| broken(path, &error))?;
        let line = record.position().map_or(number + 2, |position| position.line() as usize);
        let cells = record.iter().zip(&kinds).zip(&names).map(|((text, &kind), name)| {
            parsed(text, kind).ok_or_else(|| {
                let problem = format!("line {line}, column `{name}`: {text:?} is no {}", word(kind));
                InterchangeError::malformed(path, problem, "correct that cell, or remove the line")
            })
        });
        rows.push((line, cells.collect::<Result<Vec<Cell>, _>>()?));
    }
    Ok(Table { names, rows })
}

/// Which of the formats in CSV a file is, by its first line.
///
/// # Errors
/// When it is neither.
pub(super) fn guess(path: &Path) -> Result<Format, InterchangeError> {
    let names = names(&mut open(path)?, path)?;
    let has = |name: &str| names.iter().any(|held| held == name);
    if has("algo_name") && has("index_name") {
        return Ok(Format::CuvsBench);
    }
    if has("engine") && has("mode") {
        return Ok(Format::Csv);
    }
    Err(InterchangeError::malformed(
        path,
        format!("its columns ({}) are neither those of `kiln export --format csv` nor of cuvs-bench", names.join(", ")),
        "give one of the two",
    ))
}

fn open(path: &Path) -> Result<csv::Reader<std::fs::File>, InterchangeError> {
    let file = std::fs::File::open(path).map_err(InterchangeError::io(path))?;
    Ok(csv::ReaderBuilder::new().from_reader(file))
}

fn names(reader: &mut csv::Reader<std::fs::File>, path: &Path) -> Result<Vec<String>, InterchangeError> {
    let header = reader.headers().map_err(|error| broken(path, &error))?;
    // Spreadsheets put a byte order mark before the first name.
    let names: Vec<String> = header.iter().map(|name| name.trim_start_matches('\u{feff}').to_string()).collect();
    if names.iter().all(String::is_empty) {
        return Err(InterchangeError::malformed(path, "it is empty", "give a file with names in its first line"));
    }
    Ok(names)
}

fn broken(path: &Path, error: &csv::Error) -> InterchangeError {
    InterchangeError::malformed(path, error.to_string(), "it is damaged, cut off or no CSV: make it again")
}

fn parsed(text: &str, kind: Kind) -> Option<Cell> {
    if text.is_empty() {
        return Some(Cell::Empty);
    }
    match kind {
        Kind::Text => Some(Cell::Text(text.to_string())),
        Kind::Whole => text.parse().ok().map(Cell::Whole),
        Kind::Real => text.parse().ok().filter(|value: &f64| value.is_finite()).map(Cell::Real),
        Kind::Flag => text.to_ascii_lowercase().parse().ok().map(Cell::Flag),
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Whole => "whole number",
        Kind::Real => "finite number",
        Kind::Flag => "true or false",
    }
}
