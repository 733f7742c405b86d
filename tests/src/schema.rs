//! Checks JSON against the schemas in docs/schema, in the part of JSON Schema (draft 2020-12) that they are written in, and
//! more strictly: a field that the schema does not tell of is an error, since a program's author could not know it.

use serde_json::{Map, Value};

/// What a schema may say. Anything else is an error: it would not be checked.
const KNOWN: [&str; 13] = [
    "$schema",
    "title",
    "description",
    "$defs",
    "$ref",
    "type",
    "properties",
    "required",
    "items",
    "anyOf",
    "enum",
    "minimum",
    "additionalProperties",
];
/// Of arrays.
const BOUNDS: [&str; 2] = ["minItems", "maxItems"];

/// A schema.
pub struct Schema(Value);

impl Schema {
    /// Reads the text of a schema.
    pub fn parse(text: &str) -> Result<Schema, String> {
        let schema = Schema(serde_json::from_str(text).map_err(|error| error.to_string())?);
        schema.is_known(&schema.0)?;
        Ok(schema)
    }

    /// Whether a value is as the schema says; if not, where and why.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        self.at("", &self.0, value)
    }

    /// Names of the fields at the top.
    pub fn fields(&self) -> Vec<&str> {
        let properties = self.0.get("properties").and_then(Value::as_object);
        properties.into_iter().flat_map(Map::keys).map(String::as_str).collect()
    }

    fn at(&self, place: &str, schema: &Value, value: &Value) -> Result<(), String> {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            return self.at(place, self.definition(name)?, value);
        }
        if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
            let tried: Vec<String> = choices.iter().filter_map(|choice| self.at(place, choice, value).err()).collect();
            return if tried.len() < choices.len() { Ok(()) } else { Err(tried.join("; ")) };
        }
        let wrong = |why: &str| Err(format!("{place}: {value} {why}"));
        if !types(schema).any(|wanted| is(wanted, value)) {
            return wrong(&format!("is not of {:?}", types(schema).collect::<Vec<_>>()));
        }
        if schema.get("enum").and_then(Value::as_array).is_some_and(|all| !all.contains(value)) {
            return wrong("is none of the values");
        }
        if let (Some(least), Some(number)) = (schema.get("minimum").and_then(Value::as_f64), value.as_f64())
            && number < least
        {
            return wrong("is too small");
        }
        match value {
            Value::Array(items) => self.array(place, schema, items),
            Value::Object(fields) => self.object(place, schema, fields),
            _ => Ok(()),
        }
    }

    fn array(&self, place: &str, schema: &Value, items: &[Value]) -> Result<(), String> {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
        if bound("minItems").is_some_and(|least| items.len() < least)
            || bound("maxItems").is_some_and(|most| items.len() > most)
        {
            return Err(format!("{place}: {} items", items.len()));
        }
        let of = schema.get("items").ok_or_else(|| format!("{place}: the schema does not say of what"))?;
        items.iter().enumerate().try_for_each(|(index, item)| self.at(&format!("{place}/{index}"), of, item))
    }

    fn object(&self, place: &str, schema: &Value, fields: &Map<String, Value>) -> Result<(), String> {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                return Err(format!("{place}: {name} is missing"));
            }
        }
        fields.iter().try_for_each(|(name, value)| {
            let known = schema.get("properties").and_then(|properties| properties.get(name));
            let of = known.or_else(|| schema.get("additionalProperties"));
            let of = of.ok_or_else(|| format!("{place}/{name}: the schema does not tell of it"))?;
            self.at(&format!("{place}/{name}"), of, value)
        })
    }

    fn definition(&self, name: &str) -> Result<&Value, String> {
        let found = name.strip_prefix('#').and_then(|pointer| self.0.pointer(pointer));
        found.ok_or_else(|| format!("{name} is not defined"))
    }

    /// Whether each word of a schema is one that this checks, and each reference leads somewhere.
    fn is_known(&self, schema: &Value) -> Result<(), String> {
        let fields = schema.as_object().ok_or_else(|| format!("{schema} is no schema"))?;
        for (name, value) in fields {
            match name.as_str() {
                "properties" | "$defs" => {
                    let inner = value.as_object().ok_or_else(|| format!("{name} is no object"))?;
                    inner.values().try_for_each(|inner| self.is_known(inner))?;
                }
                "items" | "additionalProperties" => self.is_known(value)?,
                "anyOf" => value.as_array().into_iter().flatten().try_for_each(|inner| self.is_known(inner))?,
                "$ref" => _ = self.definition(value.as_str().unwrap_or_default())?,
                name if KNOWN.contains(&name) || BOUNDS.contains(&name) => {}
                name => return Err(format!("{name:?} is not checked")),
            }
        }
        Ok(())
    }
}

fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let wanted = schema.get("type");
    let several = wanted.and_then(Value::as_array).into_iter().flatten();
    wanted.filter(|wanted| wanted.is_string()).into_iter().chain(several).filter_map(Value::as_str)
}

fn is(wanted: &str, value: &Value) -> bool {
    match wanted {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_told_with_its_place() {
        let schema = Schema::parse(
            r##"{ "type": "object", "required": ["a"], "properties": {
                "a": { "type": "integer", "minimum": 0 }, "b": { "anyOf": [{ "$ref": "#/$defs/B" }, { "type": "null" }] },
                "c": { "type": "array", "items": { "enum": ["x"], "type": "string" }, "maxItems": 1 },
                "d": { "type": "object", "additionalProperties": { "type": ["boolean", "null"] } } },
                "$defs": { "B": { "type": "object", "properties": {} } } }"##,
        )
        .unwrap();
        for good in [json!({ "a": 1 }), json!({ "a": 0, "b": null, "c": ["x"], "d": { "y": true, "z": null } })] {
            assert_eq!(schema.check(&good), Ok(()));
        }
        for (wrong, words) in [
            (json!({}), "a is missing"),
            (json!({ "a": -1 }), "too small"),
            (json!({ "a": 1.5 }), "is not of"),
            (json!({ "a": 1, "b": { "q": 1 } }), "/b/q: the schema does not tell of it"),
            (json!({ "a": 1, "c": ["y"] }), "/c/0"),
            (json!({ "a": 1, "c": ["x", "x"] }), "2 items"),
            (json!({ "a": 1, "d": { "y": 1 } }), "/d/y"),
            (json!([]), "is not of"),
        ] {
            let told = schema.check(&wrong).unwrap_err();
            assert!(told.contains(words), "{wrong}: {told}");
        }
        assert!(Schema::parse(r#"{ "pattern": "x" }"#).is_err_and(|why| why.contains("not checked")));
        assert!(Schema::parse(r##"{ "$ref": "#/$defs/none" }"##).is_err());
    }
}
