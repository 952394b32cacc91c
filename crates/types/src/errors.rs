//! How an error is written for people.

use std::error::Error;

/// An error with its causes, on one line: the outermost alone ("error sending request") seldom says what to do.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Caused(&'static str, Option<Box<Caused>>);

    impl fmt::Display for Caused {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Caused {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn an_error_is_followed_by_its_causes_down_to_the_first() {
        let refused = Caused("connection refused", None);
        assert_eq!(with_causes(&refused), "connection refused");
        let request = Caused("cannot connect", Some(Box::new(refused)));
        let pull = Caused("cannot pull `busybox`", Some(Box::new(request)));
        assert_eq!(with_causes(&pull), "cannot pull `busybox`: cannot connect: connection refused");
    }
}
