//! What the operator is told: which interface is served how, or why not, and what would help.

use std::fmt;

/// What became of each interface that was considered, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One entry for each.
    pub interfaces: Vec<Interface>,
}

/// One interface of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Whether the program runs there.
    pub state: State,
    /// What is bypassed there by the operator's wish, and what costs speed.
    pub notes: Vec<String>,
}

/// How the program is attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In the driver, before the kernel makes anything of a packet.
    Native,
    /// In the kernel's own receive path: slower, but works with every driver.
    Generic,
    /// Not at all, for this reason.
    Off(String),
}

impl State {
    /// For metrics: `native`, `generic` or `off`.
    pub fn label(&self) -> &'static str {
        match self {
            State::Native => "native",
            State::Generic => "generic",
            State::Off(_) => "off",
        }
    }
}

impl Report {
    /// Whether the program is attached anywhere.
    pub fn any(&self) -> bool {
        (self.interfaces.iter()).any(|interface| !matches!(interface.state, State::Off(_)))
    }
}

/// One line, such as `eth0 native; eth1 off (nftables rules: inet filter input)`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.interfaces.is_empty() {
            return f.write_str("no interface is suitable");
        }
        for (n, interface) in self.interfaces.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{interface}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.state.label())?;
        let why = match &self.state {
            State::Native | State::Generic => None,
            State::Off(why) => Some(why),
        };
        let mut remarks = why.into_iter().chain(&self.notes);
        if let Some(first) = remarks.next() {
            write!(f, " ({first}")?;
            for remark in remarks {
                write!(f, "; {remark}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// Why the kernel's data path is not to be had; user space relays everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was found.
    pub why: String,
    /// Which capability or setting would give more, where one would.
    pub help: Option<String>,
}

impl Refused {
    pub(crate) fn new(why: impl Into<String>) -> Refused {
        let why = why.into();
        Refused { why, help: None }
    }

    pub(crate) fn helped_by(self, help: impl Into<String>) -> Refused {
        let help = Some(help.into());
        Refused { help, ..self }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_that_says_why() {
        let report = Report {
            interfaces: vec![
                Interface {
                    name: "eth0".into(),
                    state: State::Native,
                    notes: vec!["bypasses nftables inet filter input".into()],
                },
                Interface {
                    name: "eth1".into(),
                    state: State::Off("a member of bond0".into()),
                    notes: Vec::new(),
                },
            ],
        };
        assert!(report.any());
        assert_eq!(
            report.to_string(),
            "eth0 native (bypasses nftables inet filter input); eth1 off (a member of bond0)"
        );
        assert_eq!(Report::default().to_string(), "no interface is suitable");
        assert!(!Report::default().any());
    }
}
