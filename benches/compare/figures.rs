//! Medians, ratios, and how they are printed.

/// The middle one; of an even number the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// A figure's median and its extremes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) count: usize,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Self {
        Self {
            median: median(values),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            count: values.len(),
        }
    }
}

/// What is to be shown of two columns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// One's figure, divided by the other's, is at most this.
    AtMost(f64),
    /// It is at least this.
    AtLeast(f64),
    /// One's figure less the other's is at most this.
    Margin(f64),
}

impl Target {
    /// What one turn showed.
    pub(crate) fn compare(self, one: f64, other: f64) -> f64 {
        match self {
            Self::AtMost(_) | Self::AtLeast(_) => one / other,
            Self::Margin(_) => one - other,
        }
    }

    pub(crate) fn is_hit(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) | Self::Margin(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    /// Whether so small a difference wants more turns to be believed.
    pub(crate) fn is_close(self, value: f64) -> bool {
        match self {
            Self::AtMost(_) | Self::AtLeast(_) => (1.0 / 1.3..1.3).contains(&value),
            Self::Margin(_) => false,
        }
    }

    /// `1.07 (0.98 to 1.12, 9 turns), at most 1.15: hit`
    pub(crate) fn verdict(self, values: &[f64]) -> String {
        let Spread { median, least, most, count } = Spread::of(values);
        let (limit, digits) = match self {
            Self::AtMost(limit) => (format!("at most {limit}"), 2),
            Self::AtLeast(limit) => (format!("at least {limit}"), 2),
            Self::Margin(limit) => (format!("at most {limit} more"), 0),
        };
        let hit = if self.is_hit(median) { "hit" } else { "MISS" };
        format!(
            "{median:.digits$} ({least:.digits$} to {most:.digits$}, {count} turns), {limit}: {hit}"
        )
    }
}
