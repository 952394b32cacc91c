//! Prints the table that compares the autoscaler with simpler rules: `cargo run --release -p dorian-simulation`.

fn main() {
    print!("{}", dorian_simulation::autoscaling::autoscaling_table());
}
