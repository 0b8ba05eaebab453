//! Which format a file is in. In: a path. Out: its [`Format`], told by the extension alone.

use std::path::Path;

use kiln_kernels::DType;

use crate::error::DatasetError;

/// Every extension that is read, for messages.
const READ: &str = ".hdf5 .fbin .f16bin .u8bin .i8bin .fvecs .bvecs .npy (rows), .hdf5 .ibin .ivecs .npy (truth)";

/// The file formats that Kiln reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// ann-benchmarks HDF5: `.hdf5`, `.h5`.
    Hdf5,
    /// big-ann binary: `.fbin`, `.f16bin`, `.u8bin`, `.i8bin`.
    Bin(DType),
    /// big-ann ground truth: `.ibin`.
    Ibin,
    /// TEXMEX: `.fvecs`, `.bvecs`.
    Vecs(DType),
    /// TEXMEX ground truth: `.ivecs`.
    Ivecs,
    /// NumPy: `.npy`.
    Npy,
}

impl Format {
    /// The format that the extension names, or `None`.
    pub(crate) fn guess(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "hdf5" | "h5" => Self::Hdf5,
            "fbin" => Self::Bin(DType::F32),
            "f16bin" => Self::Bin(DType::F16),
            "u8bin" => Self::Bin(DType::U8),
            "i8bin" => Self::Bin(DType::I8),
            "ibin" => Self::Ibin,
            "fvecs" => Self::Vecs(DType::F32),
            "bvecs" => Self::Vecs(DType::U8),
            "ivecs" => Self::Ivecs,
            "npy" => Self::Npy,
            _ => return None,
        })
    }

    /// The format that the extension names.
    ///
    /// # Errors
    /// When the extension is missing or unknown; the message lists those that are known.
    pub(crate) fn of(path: &Path) -> Result<Self, DatasetError> {
        Self::guess(path).ok_or_else(|| {
            let problem = match path.extension() {
                Some(extension) => format!("the extension .{} names no known format", extension.to_string_lossy()),
                None => "it has no extension, and the extension tells the format".to_string(),
            };
            DatasetError::invalid(path, problem, format!("rename or convert it to one of {READ}"))
        })
    }
}
