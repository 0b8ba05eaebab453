//! From the intrinsic dimension that is asked for to the latent dimension that shows it.
//!
//! In: a local intrinsic dimension (LID) as measured, and the rows of a cluster. Out: how many latent coordinates a
//! cluster needs. The two differ because the estimator sees finite rows: the hundred nearest of a few thousand lie too
//! far out to see the dimension near a point, more so the higher it is.
//!
//! The table is the median of the estimator of [`crate::lid`] with k = 100, measured on Gaussian rows in as many
//! dimensions as the column says (1,000 queries; 3,000 below 20,000 rows).

/// Latent dimensions of the columns.
const LATENT: [f64; 14] = [2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0];

/// Rows of a cluster in the table's first line; each line has twice those of the one before.
const FIRST_ROWS: f64 = 500.0;

/// Measured LID by rows of the cluster and latent dimension.
const MEASURED: [[f64; 14]; 12] = [
    [1.994, 2.868, 3.628, 5.007, 6.145, 8.009, 9.612, 12.326, 14.475, 18.313, 21.542, 26.880, 31.289, 38.880],
    [2.031, 2.963, 3.841, 5.344, 6.646, 8.882, 10.804, 13.866, 16.589, 21.031, 24.638, 30.963, 36.197, 44.762],
    [2.037, 3.031, 3.960, 5.611, 7.047, 9.522, 11.570, 15.147, 18.205, 23.081, 27.422, 34.666, 40.338, 50.562],
    [2.028, 3.037, 4.012, 5.758, 7.336, 10.042, 12.318, 16.275, 19.428, 24.911, 29.642, 37.466, 44.140, 54.972],
    [2.026, 3.059, 4.022, 5.890, 7.543, 10.488, 12.886, 17.140, 20.763, 26.612, 31.616, 40.163, 47.275, 59.066],
    [2.011, 3.048, 4.053, 5.933, 7.699, 10.737, 13.434, 17.850, 21.771, 28.093, 33.505, 42.688, 50.517, 63.440],
    [2.003, 3.050, 4.037, 6.005, 7.823, 11.014, 13.833, 18.397, 22.408, 29.387, 35.204, 44.913, 53.380, 66.895],
    [2.019, 3.022, 4.021, 6.035, 7.910, 11.196, 13.983, 19.029, 23.300, 30.660, 36.742, 46.985, 55.808, 70.556],
    [2.043, 3.005, 4.067, 6.062, 7.941, 11.329, 14.357, 19.891, 24.268, 31.333, 38.166, 49.289, 57.888, 73.228],
    [2.017, 3.036, 4.055, 6.045, 7.954, 11.547, 14.591, 20.014, 24.628, 32.897, 39.846, 50.323, 60.979, 76.469],
    [1.999, 3.018, 4.093, 6.079, 8.036, 11.679, 14.856, 20.587, 25.246, 34.285, 40.741, 52.640, 61.624, 79.209],
    [2.027, 3.028, 4.052, 6.094, 8.015, 11.817, 15.135, 20.738, 25.716, 34.602, 42.004, 54.464, 64.365, 81.773],
];

/// The LID measured at each latent dimension in a cluster of `rows`, interpolated between the table's lines and held
/// constant past its ends.
fn measured_at(rows: f64) -> [f64; 14] {
    let mut line = 0;
    let mut below = FIRST_ROWS;
    while line + 2 < MEASURED.len() && rows >= 2.0 * below {
        line += 1;
        below *= 2.0;
    }
    let share = ((rows - below) / below).clamp(0.0, 1.0);
    std::array::from_fn(|i| MEASURED[line][i] + share * (MEASURED[line + 1][i] - MEASURED[line][i]))
}

/// The latent dimension at which a cluster of `rows` shows local intrinsic dimension `lid`; `None` beyond the table.
pub(crate) fn latent_dimension(lid: f64, rows: f64) -> Option<f64> {
    let measured = measured_at(rows);
    if lid <= measured[0] {
        return Some(LATENT[0]);
    }
    let above = measured.iter().position(|&m| m >= lid)?;
    let share = (lid - measured[above - 1]) / (measured[above] - measured[above - 1]);
    Some(LATENT[above - 1] + share * (LATENT[above] - LATENT[above - 1]))
}

/// The LID that a cluster of `rows` shows with `latent` coordinates: the inverse, for messages.
pub(crate) fn shown_dimension(latent: f64, rows: f64) -> f64 {
    let measured = measured_at(rows);
    let Some(above) = LATENT.iter().position(|&l| l >= latent) else { return measured[LATENT.len() - 1] };
    if above == 0 {
        return measured[0];
    }
    let share = (latent - LATENT[above - 1]) / (LATENT[above] - LATENT[above - 1]);
    measured[above - 1] + share * (measured[above] - measured[above - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_directions_agree() {
        for rows in [100.0, 500.0, 5_000.0, 70_000.0, 1e9] {
            for lid in [2.5, 8.0, 16.5, 30.0] {
                let latent = latent_dimension(lid, rows).unwrap();
                assert!((shown_dimension(latent, rows) - lid).abs() < 1e-9, "{lid} at {rows}");
            }
        }
    }

    #[test]
    fn more_rows_need_fewer_latent_coordinates() {
        assert!(latent_dimension(20.0, 100_000.0).unwrap() < latent_dimension(20.0, 2_000.0).unwrap());
        assert_eq!(latent_dimension(1_000.0, 5_000.0), None);
    }
}
