//! The highest rate without loss.

/// What one attempt showed.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// What was really sent, datagrams a second.
    pub sent: f64,
    /// Of these, the share that was lost, 0 to 1.
    pub loss: f64,
}

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The highest rate that passed, datagrams a second; 0 where none did.
    pub rate: f64,
    /// The generator could not send faster: the server may be able to take more.
    pub generator_bound: bool,
}

/// Rates closer than this are the same.
const RESOLUTION: f64 = 1.03;
/// How fast the search goes up and down until it has both ends.
const STRIDE: f64 = 1.25;
/// Below this there is nothing to find.
const LOWEST: f64 = 100.0;
/// How often a rate is tried until it passes.
const ATTEMPTS: usize = 3;
/// Of the rate asked for, what the generator must at least send.
const REACHED: f64 = 0.97;

/// Searches from `guess` on for the highest rate at which at most `loss` of the datagrams is lost.
/// A rate that fails is tried again: a hiccup of the machine is neither the server's limit nor the
/// generator's.
///
/// # Errors
///
/// Those of `probe`.
pub fn highest<E>(
    guess: f64,
    loss: f64,
    mut probe: impl FnMut(f64) -> Result<Probe, E>,
) -> Result<Found, E> {
    let (mut low, mut high) = (0.0, f64::INFINITY);
    let mut rate = guess.max(LOWEST);
    while rate >= LOWEST && low * RESOLUTION < high {
        let passes = |seen: &Probe| seen.loss <= loss && seen.sent >= REACHED * rate;
        let mut seen = probe(rate)?;
        for _ in 1..ATTEMPTS {
            if passes(&seen) {
                break;
            }
            seen = probe(rate)?;
        }
        if seen.loss > loss {
            high = rate;
        } else if seen.sent < REACHED * rate {
            return Ok(Found { rate: seen.sent.max(low), generator_bound: true });
        } else {
            low = rate;
        }
        rate = match (low, high) {
            (0.0, high) => high / STRIDE,
            (low, f64::INFINITY) => low * STRIDE,
            (low, high) => f64::midpoint(low, high),
        };
    }
    Ok(Found { rate: low, generator_bound: false })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn search(guess: f64, capacity: f64, generator: f64) -> (Found, u32) {
        let mut probes = 0;
        let found = highest(guess, 0.001, |rate| {
            probes += 1;
            let sent = rate.min(generator);
            Ok::<_, Infallible>(Probe { sent, loss: (1.0 - capacity / sent).max(0.0) })
        });
        (found.unwrap(), probes)
    }

    #[test]
    fn it_ends_just_below_what_the_server_can() {
        for guess in [100.0, 20_000.0, 199_000.0, 200_000.0, 250_000.0, 4e6] {
            let (found, probes) = search(guess, 200_000.0, f64::INFINITY);
            let share = found.rate / 200_000.0;
            assert!((0.97..=1.002).contains(&share), "{guess}: {found:?}");
            assert!(!found.generator_bound && probes < 60, "{guess}: {probes} probes");
        }
    }

    #[test]
    fn a_generator_that_is_slower_than_the_server_is_told() {
        let (found, _) = search(50_000.0, 200_000.0, 100_000.0);
        assert_eq!(found, Found { rate: 100_000.0, generator_bound: true });
    }

    #[test]
    fn a_server_that_loses_everything_ends_the_search() {
        let (found, _) = search(50_000.0, 0.0, f64::INFINITY);
        assert_eq!(found, Found { rate: 0.0, generator_bound: false });
    }

    #[test]
    fn one_hiccup_does_not_count() {
        let mut first = true;
        let found = highest(1_000.0, 0.001, |rate| {
            let hiccup = std::mem::take(&mut first);
            let loss = if hiccup || rate > 1_100.0 { 0.5 } else { 0.0 };
            Ok::<_, Infallible>(Probe { sent: rate, loss })
        });
        assert!(found.unwrap().rate > 1_050.0);
    }
}
