//! Builds the built-in agents' image from source.

fn main() {
    match portal_warp_image::Agent::new("agents/Cargo.toml").build() {
        Ok(image) => println!("cargo::rustc-env=PORTAL_AGENTS_IMAGE={}", image.display()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
