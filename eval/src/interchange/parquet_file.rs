//! Parquet: the rows of [`table`](super::table), a column each, every one of them optional.
//!
//! In: rows, or a file. Out: a file of one row group, uncompressed (a run has some hundred rows); or names and typed
//! cells.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::Field;
use parquet::schema::types::Type;

use super::table::{Cell, Kind, Table};
use super::{InterchangeError, write_whole};

/// Writes rows under a header, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(path: &Path, header: &[(String, Kind)], rows: &[Vec<Cell>]) -> Result<(), InterchangeError> {
    let bytes = encoded(header, rows)
        .map_err(|error| InterchangeError::malformed(path, error.to_string(), "please report it"))?;
    write_whole(path, &bytes)
}

fn encoded(header: &[(String, Kind)], rows: &[Vec<Cell>]) -> Result<Vec<u8>, ParquetError> {
    let fields: Result<Vec<Arc<Type>>, ParquetError> = header
        .iter()
        .map(|(name, kind)| {
            let (physical, logical) = match kind {
                Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
                Kind::Whole => (Physical::INT64, None),
                Kind::Real => (Physical::DOUBLE, None),
                Kind::Flag => (Physical::BOOLEAN, None),
            };
            let field = Type::primitive_type_builder(name, physical)
                .with_repetition(Repetition::OPTIONAL)
                .with_logical_type(logical)
                .build()?;
            Ok(Arc::new(field))
        })
        .collect();
    let schema = Arc::new(Type::group_type_builder("settings").with_fields(fields?).build()?);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::new()))?;
    let mut group = writer.next_row_group()?;
    for (at, (_, kind)) in header.iter().enumerate() {
        let Some(mut column) = group.next_column()? else { break };
        let cells = || rows.iter().map(|row| &row[at]);
        let known: Vec<i16> = cells().map(|cell| i16::from(*cell != Cell::Empty)).collect();
        match kind {
            Kind::Text => {
                let values: Vec<ByteArray> = cells()
                    .filter_map(|cell| match cell {
                        Cell::Text(text) => Some(ByteArray::from(text.as_str())),
                        _ => None,
                    })
                    .collect();
                column.typed::<ByteArrayType>().write_batch(&values, Some(&known), None)?;
            }
            Kind::Whole => {
                let values: Vec<i64> = cells()
                    .filter_map(|cell| match cell {
                        Cell::Whole(value) => Some(*value),
                        _ => None,
                    })
                    .collect();
                column.typed::<Int64Type>().write_batch(&values, Some(&known), None)?;
            }
            Kind::Real => {
                let values: Vec<f64> = cells()
                    .filter_map(|cell| match cell {
                        Cell::Real(value) => Some(*value),
                        _ => None,
                    })
                    .collect();
                column.typed::<DoubleType>().write_batch(&values, Some(&known), None)?;
            }
            Kind::Flag => {
                let values: Vec<bool> = cells()
                    .filter_map(|cell| match cell {
                        Cell::Flag(value) => Some(*value),
                        _ => None,
                    })
                    .collect();
                column.typed::<BoolType>().write_batch(&values, Some(&known), None)?;
            }
        }
        column.close()?;
    }
    group.close()?;
    writer.into_inner()
}

/// Reads a file: names from its schema, cells by what each column holds.
///
/// # Errors
/// When it is no Parquet, is damaged, or a column is of a type that no figure has.
pub(super) fn read(path: &Path) -> Result<Table, InterchangeError> {
    let broken = |error: ParquetError| {
        InterchangeError::malformed(path, error.to_string(), "it is damaged, cut off or no Parquet: make it again")
    };
    let file = std::fs::File::open(path).map_err(InterchangeError::io(path))?;
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let names: Vec<String> = schema.columns().iter().map(|column| column.name().to_string()).collect();
    let mut table = Table { names, rows: Vec::new() };
    for (number, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        let row = row.map_err(broken)?;
        let cells = row.get_column_iter().map(|(name, field)| {
            cell(field).ok_or_else(|| {
                let problem = format!("row {}, column `{name}` holds {field}, which no column may", number + 1);
                InterchangeError::malformed(path, problem, "give a file of `kiln export --format parquet`")
            })
        });
        table.rows.push((number + 1, cells.collect::<Result<Vec<Cell>, _>>()?));
    }
    Ok(table)
}

fn cell(field: &Field) -> Option<Cell> {
    Some(match field {
        Field::Null => Cell::Empty,
        Field::Str(text) => Cell::Text(text.clone()),
        Field::Bytes(bytes) => Cell::Text(String::from_utf8(bytes.data().to_vec()).ok()?),
        Field::Bool(value) => Cell::Flag(*value),
        Field::Int(value) => Cell::Whole(i64::from(*value)),
        Field::Long(value) => Cell::Whole(*value),
        Field::ULong(value) => Cell::Whole(i64::try_from(*value).ok()?),
        Field::Float(value) => Cell::Real(f64::from(*value)),
        Field::Double(value) => Cell::Real(*value),
        _ => return None,
    })
}
