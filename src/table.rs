//! Columns of text, and amounts as people read them.

use std::fmt;

/// Rows of `N` cells; every column is as wide as its widest cell.
#[derive(Default)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn headed(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned)] }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell_width = |cell: &String| cell.chars().count();
        let widths: [usize; N] = std::array::from_fn(|column| {
            self.rows.iter().map(|row| cell_width(&row[column])).max().unwrap_or(0)
        });
        for row in &self.rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Prefixes of units, the largest first.
const PREFIXES: [(u128, &str); 6] = [
    (1_000_000_000_000_000_000, "E"),
    (1_000_000_000_000_000, "P"),
    (1_000_000_000_000, "T"),
    (1_000_000_000, "G"),
    (1_000_000, "M"),
    (1_000, "k"),
];

/// `1.23 GB`: three digits that count; never more than it is.
pub(crate) fn bytes(bytes: u64) -> String {
    rounded(bytes.into(), "B")
}

/// `9.87 Mbit/s`, the same of a rate in bytes per second.
pub(crate) fn bit_rate(bytes_per_second: u64) -> String {
    rounded(u128::from(bytes_per_second) * 8, "bit/s")
}

fn rounded(amount: u128, unit: &str) -> String {
    let Some((factor, prefix)) = PREFIXES.into_iter().find(|(factor, _)| amount >= *factor) else {
        return format!("{amount} {unit}");
    };
    let hundredths = amount * 100 / factor;
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match whole {
        0..10 => format!("{whole}.{rest:02} {prefix}{unit}"),
        10..100 => format!("{whole}.{} {prefix}{unit}", rest / 10),
        _ => format!("{whole} {prefix}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_rounded_down_to_three_digits() {
        for (amount, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (1_999_999, "1.99 MB"),
            (12_345_678, "12.3 MB"),
            (999_999_999, "999 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(amount), text);
        }
        assert_eq!(bit_rate(0), "0 bit/s");
        assert_eq!(bit_rate(1_250_000), "10.0 Mbit/s");
    }

    #[test]
    fn columns_are_even() {
        let mut table = Table::headed(["USER", "N", ""]);
        table.row(["größe", "1000", ""].map(str::to_owned));
        assert_eq!(table.to_string(), "USER   N\ngröße  1000\n");
    }
}
