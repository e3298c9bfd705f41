//! The terminal as a board: another screen, keys without Enter, and everything as it was at the end, however it comes.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// The alternate screen, without a cursor and without lines that wrap (xterm's control sequences), and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// How the terminal was, as long as it is not so.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The board's screen. Dropping it gives the terminal back as it was; so does a panic that ends the program.
#[derive(Debug)]
pub struct Screen(());

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When standard input is none.
    pub fn enter() -> anyhow::Result<Self> {
        let before = tcgetattr(io::stdin().as_fd()).context("asking the terminal for its settings")?;
        let mut keys = before.clone();
        // Signals stay on: Ctrl-C ends the demonstration like any other program.
        keys.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let said = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            said(panic);
        }));
        tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &keys).context("setting the terminal up")?;
        let screen = Self(());
        print(ENTER)?;
        Ok(screen)
    }

    /// Shows these lines in place of what was there.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn show(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for line in lines {
            text.push_str(line);
            text.push_str("\x1b[0m\x1b[K\n");
        }
        text.push_str("\x1b[J");
        print(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // A terminal that is gone needs nothing given back.
        let _ = print(LEAVE);
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &before);
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
