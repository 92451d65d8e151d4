//! Numbers as both syntaxes write them.

use crate::tree::Value;

/// Reads a decimal integer, a hexadecimal one (`0x1f`), or a number with a fraction or an exponent.
///
/// # Errors
/// What is wrong with it: not a number, or too large for 64 bits.
pub(crate) fn parse(text: &str) -> Result<Value, &'static str> {
    const MALFORMED: &str = "malformed number";
    const TOO_LARGE: &str = "number does not fit 64 bits";
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text),
    };
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(MALFORMED);
        }
        return i64::from_str_radix(&format!("{sign}{hex}"), 16).map(Value::Integer).map_err(|_| TOO_LARGE);
    }
    // Rust's own float syntax also takes "inf", "nan", "+1", ".5" and "5."; neither HCL nor JSON does.
    let ends_in_digits =
        |s: &str| s.starts_with(|c: char| c.is_ascii_digit()) && s.ends_with(|c: char| c.is_ascii_digit());
    let mantissa = digits.split(['e', 'E']).next().unwrap_or_default();
    if !ends_in_digits(mantissa) {
        return Err(MALFORMED);
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(Value::Integer).map_err(|_| TOO_LARGE);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(Value::Float(number)),
        Ok(_) => Err(TOO_LARGE),
        Err(_) => Err(MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::tree::Value;

    #[test]
    fn integers_floats_and_refusals() {
        assert_eq!(parse("0"), Ok(Value::Integer(0)));
        assert_eq!(parse("-42"), Ok(Value::Integer(-42)));
        assert_eq!(parse("0x1F"), Ok(Value::Integer(31)));
        assert_eq!(parse("-0x10"), Ok(Value::Integer(-16)));
        assert_eq!(parse("1.5"), Ok(Value::Float(1.5)));
        assert_eq!(parse("2e3"), Ok(Value::Float(2000.0)));
        assert_eq!(parse("9223372036854775807"), Ok(Value::Integer(i64::MAX)));
        assert_eq!(parse("-9223372036854775808"), Ok(Value::Integer(i64::MIN)));
        for large in ["9223372036854775808", "1e999", "0xffffffffffffffff"] {
            assert_eq!(parse(large), Err("number does not fit 64 bits"), "{large}");
        }
        for bad in ["", "-", "1.", ".5", "1.2.3", "0x", "0x+1", "1e", "inf", "NaN", "+1", "--1", "1_000"] {
            assert_eq!(parse(bad), Err("malformed number"), "{bad}");
        }
    }
}
