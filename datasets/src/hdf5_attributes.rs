//! Root attributes of an HDF5 file, as whichever program wrote them.
//!
//! In: an open file and a name. Out: text of any string kind, or a number of any numeric kind (a boolean counts as 0 or
//! 1); `None` where there is no such attribute, or it is of another kind. And the way back: attributes as h5py writes
//! them.

use std::path::Path;

use hdf5::types::{FixedAscii, FixedUnicode, TypeDescriptor, VarLenAscii, VarLenUnicode};

use crate::error::DatasetError;
use crate::hdf5_file::refused;

/// The longest fixed-length string attribute that is read.
const ATTRIBUTE_BYTES: usize = 256;

/// The attribute and its kind; `None` where the file has none of this name.
fn attribute(
    file: &hdf5::File,
    path: &Path,
    name: &str,
) -> Result<Option<(hdf5::Attribute, TypeDescriptor)>, DatasetError> {
    let unreadable = |error| refused(path, &format!("attribute `{name}` cannot be read"))(error);
    if !file.attr_names().map_err(unreadable)?.iter().any(|held| held == name) {
        return Ok(None);
    }
    let attribute = file.attr(name).map_err(unreadable)?;
    let stored = attribute.dtype().and_then(|dtype| dtype.to_descriptor()).map_err(unreadable)?;
    Ok(Some((attribute, stored)))
}

/// A root attribute as text; `None` where it is missing or not a string. Any kind of HDF5 string will do.
pub(crate) fn text_attribute(file: &hdf5::File, path: &Path, name: &str) -> Result<Option<String>, DatasetError> {
    let Some((attribute, stored)) = attribute(file, path, name)? else { return Ok(None) };
    let unreadable = |error| refused(path, &format!("attribute `{name}` cannot be read"))(error);
    // HDF5 does not convert between character sets, so each kind is read as its own type.
    let texts: Vec<Vec<u8>> = match stored {
        TypeDescriptor::FixedAscii(n) | TypeDescriptor::FixedUnicode(n) if n > ATTRIBUTE_BYTES => {
            return Err(DatasetError::invalid(
                path,
                format!("attribute `{name}` takes {n} bytes; at most {ATTRIBUTE_BYTES} are read"),
                "write it as a short string",
            ));
        }
        TypeDescriptor::FixedAscii(_) => {
            bytes_of(attribute.read_raw::<FixedAscii<ATTRIBUTE_BYTES>>().map_err(unreadable)?)
        }
        TypeDescriptor::FixedUnicode(_) => {
            bytes_of(attribute.read_raw::<FixedUnicode<ATTRIBUTE_BYTES>>().map_err(unreadable)?)
        }
        TypeDescriptor::VarLenAscii => bytes_of(attribute.read_raw::<VarLenAscii>().map_err(unreadable)?),
        TypeDescriptor::VarLenUnicode => bytes_of(attribute.read_raw::<VarLenUnicode>().map_err(unreadable)?),
        _ => return Ok(None),
    };
    // Space padding is one of the ways HDF5 ends a fixed-length string.
    Ok(texts.first().map(|text| String::from_utf8_lossy(text).trim().to_string()))
}

/// A root attribute as a number; `None` where it is missing or not one.
pub(crate) fn number_attribute(file: &hdf5::File, path: &Path, name: &str) -> Result<Option<f64>, DatasetError> {
    let Some((attribute, stored)) = attribute(file, path, name)? else { return Ok(None) };
    let unreadable = |error| refused(path, &format!("attribute `{name}` cannot be read"))(error);
    Ok(match stored {
        TypeDescriptor::Float(_) | TypeDescriptor::Integer(_) | TypeDescriptor::Unsigned(_) => {
            attribute.read_raw::<f64>().map_err(unreadable)?.first().copied()
        }
        TypeDescriptor::Boolean => {
            attribute.read_raw::<bool>().map_err(unreadable)?.first().map(|&set| f64::from(u8::from(set)))
        }
        _ => None,
    })
}

/// Writes a text as h5py writes a `str`: of variable length, in UTF-8.
pub(crate) fn write_text(file: &hdf5::File, name: &str, value: &str) -> hdf5::Result<()> {
    let value: VarLenUnicode = value.parse().map_err(|_| hdf5::Error::from("a zero byte in an attribute"))?;
    file.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&value)
}

/// Writes a number or a boolean as h5py writes its own.
pub(crate) fn write_scalar<T: hdf5::H5Type>(file: &hdf5::File, name: &str, value: T) -> hdf5::Result<()> {
    file.new_attr::<T>().create(name)?.write_scalar(&value)
}

fn bytes_of<T: AsRef<[u8]>>(texts: Vec<T>) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_ref().to_vec()).collect()
}
