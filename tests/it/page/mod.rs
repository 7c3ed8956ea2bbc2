//! The page: what its process serves, what harms it, and the page for people in a real browser.

mod browser;
mod faults;
mod lasts;
mod real;
mod serves;
mod site;
