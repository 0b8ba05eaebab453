//! Tables behind charts.
//!
//! In: titles and cells. Out: plain data that the page's template lays out.

use serde::Serialize;

/// A table.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Table {
    /// Titles of the columns; the first column names the row.
    pub columns: Vec<String>,
    /// Cells, as wide as `columns`.
    pub rows: Vec<Vec<Cell>>,
}

/// A cell.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// Said smaller beneath it; may be empty.
    pub sub: String,
}

impl Table {
    /// An empty table under these titles.
    pub fn new(columns: &[&str]) -> Table {
        Table { columns: columns.iter().map(|c| c.to_string()).collect(), rows: Vec::new() }
    }

    /// Appends a row.
    pub fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, sub: String::new() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        text.to_string().into()
    }
}

impl From<(String, String)> for Cell {
    fn from((text, sub): (String, String)) -> Cell {
        Cell { text, sub }
    }
}
