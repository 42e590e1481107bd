//! Where a new password comes from. Never from the arguments: everybody on the machine sees those.

use std::io::{self, ErrorKind, Read as _};

use base64::prelude::{BASE64_URL_SAFE, Engine as _};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use super::UserError;

/// How the password is given to a user who must have one.
#[derive(Debug, Args)]
pub(super) struct PasswordArgs {
    /// Read the password from standard input, one line, instead of asking at the terminal
    #[arg(long, conflicts_with = "generate")]
    password_stdin: bool,
    /// Make up a password and print it, once
    #[arg(long)]
    generate: bool,
    /// Taken so that the error can say why there is no such option, and does not show it.
    #[arg(long, hide = true, num_args = 0..=1, value_name = "PASSWORD")]
    password: Option<Option<Unread>>,
}

/// The same for a user who may have none.
#[derive(Debug, Args)]
pub(super) struct NewPasswordArgs {
    /// No password: only limits, for an account of time-limited (REST) credentials or a
    /// [[auth.user]] of the configuration
    #[arg(long = "no-password", conflicts_with_all = ["password_stdin", "generate"])]
    pub(super) none: bool,
    #[command(flatten)]
    pub(super) with: PasswordArgs,
}

/// A password that should not be there. It is not looked at.
#[derive(Clone, Debug)]
struct Unread;

impl From<&str> for Unread {
    fn from(_: &str) -> Self {
        Self
    }
}

/// A password that a user is to have.
pub(super) struct NewPassword {
    pub(super) text: Zeroizing<String>,
    made_up: bool,
}

/// 18 bytes are 24 characters of base64.
const RANDOM_BYTES: usize = 18;

/// More than any password has, and little enough to read.
const MAX_BYTES: u64 = 4096;

impl PasswordArgs {
    /// Says why a password in the arguments is not taken, if there is one.
    pub(super) fn check(&self) -> Result<(), UserError> {
        match self.password {
            None => Ok(()),
            Some(_) => Err(UserError::Input(
                "a password among the arguments is seen by everybody on this machine (ps) and \
                 stays in the history of the shell; leave it out to be asked for it, or use \
                 --password-stdin or --generate"
                    .to_owned(),
            )),
        }
    }

    /// Asks for the password of `name`, reads it or makes it up.
    pub(super) fn read(&self, name: &str) -> Result<NewPassword, UserError> {
        let text = if self.generate {
            random()?
        } else if self.password_stdin {
            from_stdin()?
        } else {
            from_terminal(name)?
        };
        Ok(NewPassword { text, made_up: self.generate })
    }
}

impl NewPassword {
    /// What is printed of it: a password that a person chose, never.
    pub(super) fn shown(&self) -> String {
        match self.made_up {
            true => format!(
                "password: {}\nIt is not kept and cannot be shown again.\n",
                self.text.as_str()
            ),
            false => String::new(),
        }
    }
}

fn random() -> Result<Zeroizing<String>, UserError> {
    let mut bytes = Zeroizing::new([0_u8; RANDOM_BYTES]);
    getrandom::fill(bytes.as_mut()).map_err(|error| {
        UserError::Failed(format!("the system has no randomness for a password: {error}"))
    })?;
    Ok(Zeroizing::new(BASE64_URL_SAFE.encode(bytes.as_ref())))
}

fn from_stdin() -> Result<Zeroizing<String>, UserError> {
    let mut text = Zeroizing::new(String::new());
    let read = io::stdin().lock().take(MAX_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| {
        UserError::Input(format!("cannot read the password from standard input: {error}"))
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(UserError::Input(
            "standard input is empty; write the password into it, for example with \
             --password-stdin < file"
                .to_owned(),
        ));
    }
    if line.contains('\n') || text.len() as u64 > MAX_BYTES {
        return Err(UserError::Input(format!(
            "standard input has more than a password: one line of at most {MAX_BYTES} bytes"
        )));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

fn from_terminal(name: &str) -> Result<Zeroizing<String>, UserError> {
    let _kept = outlive_interrupt().map_err(|error| {
        UserError::Failed(format!("cannot keep the terminal as it is: {error}"))
    })?;
    let ask = |prompt: String| {
        let answer = rpassword::prompt_password(prompt).map(Zeroizing::new);
        answer.map_err(|error| match error.kind() {
            ErrorKind::Interrupted | ErrorKind::UnexpectedEof => {
                UserError::Failed("no password was given; nothing was changed".to_owned())
            }
            _ => UserError::Input(format!(
                "cannot ask for a password, there is no terminal ({error}); use --password-stdin \
                 or --generate"
            )),
        })
    };
    let first = ask(format!("Password for {name:?}: "))?;
    if first.is_empty() {
        return Err(UserError::Input(
            "an empty password would let everybody in; nothing was changed".to_owned(),
        ));
    }
    if first != ask("The same again: ".to_owned())? {
        return Err(UserError::Input(
            "the two are not the same; nothing was changed, try again".to_owned(),
        ));
    }
    Ok(first)
}

/// From now on ^C ends the question, and not the process while the terminal shows nothing of what
/// is typed: it would stay like that. For as long as what is returned lives.
fn outlive_interrupt() -> io::Result<impl Sized> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let interrupts = signal(SignalKind::interrupt())?;
    drop(entered);
    Ok((interrupts, runtime))
}
