//! What is compared, and how long it is looked at.

use std::time::Duration;

/// Read from the arguments.
pub(crate) struct Settings {
    /// Rows of the table of targets.
    pub(crate) rows: Vec<u32>,
    /// All combinations of size, allocations, direction and burst.
    pub(crate) grid: bool,
    /// Seconds instead of minutes: shows that everything works, and no figures to rely on.
    pub(crate) quick: bool,
    /// Turns that each column has at least.
    pub(crate) pairs: usize,
    /// Turns that each column has where a ratio is near 1.
    pub(crate) more_pairs: usize,
    /// How long is measured.
    pub(crate) duration: Duration,
    /// How long traffic runs before that.
    pub(crate) warmup: Duration,
    /// How long each attempt of a search takes.
    pub(crate) attempt: Duration,
    /// The CPU of the servers, and the generator's.
    pub(crate) cpus: [usize; 2],
}

const USAGE: &str = "\
usage: compare [rows N...] [all] [grid] [--quick] [--pairs N] [--seconds S] [--cpus SERVER,LOAD]
  rows N...     of the table of targets, 1 to 15 (all: each of them)
  grid          172 and 1,200 bytes x 1, 100, 1,000 allocations x three directions x bursts of 1
                and 8; takes hours
  --pairs N     turns of each column (5; 9 where a ratio is below 1.3)
  --seconds S   of each turn (1)
  --cpus A,B    of the servers and of the generator (0,1)
environment: TURNWAY, COTURN: the programs; COTURN_FLAGS: instead of
  --no-tls --no-dtls -m 1 --simple-log --no-cli";

const ALL: std::ops::RangeInclusive<u32> = 1..=15;

impl Settings {
    pub(crate) fn read(arguments: &[String]) -> Result<Self, String> {
        let mut settings = Self {
            rows: Vec::new(),
            grid: false,
            quick: false,
            pairs: 5,
            more_pairs: 9,
            duration: Duration::from_secs(1),
            warmup: Duration::from_millis(200),
            attempt: Duration::from_millis(400),
            cpus: [0, 1],
        };
        let mut words = arguments.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            let wrong = || format!("what is {word:?}?\n{USAGE}");
            let mut value = || words.next().ok_or_else(wrong);
            match word {
                "rows" => {
                    while let Some(row) = words.next_if(|word| word.parse::<u32>().is_ok()) {
                        let row = row.parse().map_err(|_| wrong())?;
                        settings
                            .rows
                            .push(Some(row).filter(|row| ALL.contains(row)).ok_or_else(wrong)?);
                    }
                }
                "all" => settings.rows.extend(ALL),
                "grid" => settings.grid = true,
                "--quick" => settings.quick = true,
                "--pairs" => {
                    let pairs: usize = value()?.parse().map_err(|_| wrong())?;
                    settings.pairs = pairs.max(1);
                    settings.more_pairs = settings.pairs;
                }
                "--seconds" => {
                    let seconds: f64 = value()?.parse().map_err(|_| wrong())?;
                    settings.duration = Duration::from_secs_f64(seconds.clamp(0.05, 600.0));
                }
                "--cpus" => {
                    let (server, load) = value()?.split_once(',').ok_or_else(wrong)?;
                    let number = |text: &str| text.parse().map_err(|_| wrong());
                    settings.cpus = [number(server)?, number(load)?];
                }
                "--bench" => {} // cargo's
                _ => return Err(wrong()),
            }
        }
        settings.finish()
    }

    fn finish(mut self) -> Result<Self, String> {
        if self.rows.is_empty() && !self.grid {
            if !self.quick {
                return Err(USAGE.to_owned());
            }
            self.rows.extend(ALL);
        }
        if self.quick {
            (self.pairs, self.more_pairs) = (1, 1);
            let brief = Duration::from_millis(100);
            (self.duration, self.warmup, self.attempt) = (brief, brief / 4, brief / 4);
        }
        Ok(self)
    }

    pub(crate) fn server_cpu(&self) -> usize {
        self.cpus[0]
    }

    pub(crate) fn load_cpu(&self) -> usize {
        self.cpus[1]
    }

    pub(crate) fn headline(&self) -> String {
        format!(
            "servers on CPU {}, generator on CPU {}; {} turns of {:.1} s each{}",
            self.cpus[0],
            self.cpus[1],
            self.pairs,
            self.duration.as_secs_f64(),
            if self.quick { "; quick: the figures mean nothing" } else { "" }
        )
    }
}
