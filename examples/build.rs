//! Builds the agents' images.

fn main() {
    for (name, manifest) in [
        ("CALLER_IMAGE", "agents/caller/Cargo.toml"),
        ("PRIMES_IMAGE", "agents/primes/Cargo.toml"),
    ] {
        match portal_warp_image::Agent::new(manifest).build() {
            Ok(image) => println!("cargo::rustc-env={name}={}", image.display()),
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
    }
}
