//! Writes the page of each sample into a directory, to be looked at in a browser.
//!
//!     cargo run -p pen-status --features samples --example page DIRECTORY

use std::path::Path;
use std::time::Instant;
use std::{env, fs, io};

use pen_status::{Status, page, samples};

fn main() -> io::Result<()> {
    let Some(directory) = env::args_os().nth(1) else {
        return Err(io::Error::other("usage: page DIRECTORY"));
    };
    let pages: [(&str, Status); 13] = [
        ("fine-1", samples::fine(1)),
        ("fine-3", samples::fine(3)),
        ("half-3", samples::half_down(3)),
        ("fine-200", samples::fine(200)),
        ("half-200", samples::half_down(200)),
        ("fine-1000", samples::fine(1000)),
        ("hostile", samples::hostile()),
        ("empty", samples::empty()),
        ("down", down()),
        ("every-state", samples::every_state()),
        ("paused", samples::paused()),
        ("holding", samples::holding()),
        ("disregarding", samples::disregarding()),
    ];
    for (name, status) in pages {
        let begin = Instant::now();
        let html = page::render(&status);
        let took = begin.elapsed();
        println!("{name}: {} bytes, {:.2} ms", html.len(), took.as_secs_f64() * 1e3);
        fs::write(Path::new(&directory).join(format!("{name}.html")), html)?;
    }
    Ok(())
}

/// No server is left.
fn down() -> Status {
    let mut status = samples::half_down(3);
    status.servers = vec![status.servers[1].clone()];
    status.emergency = None;
    status
}
