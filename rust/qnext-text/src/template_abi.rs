//! The chat template's part of qnext_text.h, which documents each function.

use crate::abi::{give, guard, slice, take_back, text, QnBytes};
use crate::template::{Template, Variable, VariableKind};

pub struct QnTemplate(Template);

#[repr(C)]
pub struct QnVariable {
    name: *const u8,
    num_name_bytes: usize,
    value: *const u8,
    num_value_bytes: usize,
    kind: u8,
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_template_parse(source: *const u8, num_bytes: usize, out: *mut *mut QnTemplate) -> QnBytes {
    guard(|| {
        give(out, QnTemplate(Template::parse(text(source, num_bytes, "the template")?)?));
        Ok(())
    })
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_template_free(template: *mut QnTemplate) {
    take_back(template)
}

/// # Safety
/// See qnext_text.h.
#[no_mangle]
pub unsafe extern "C" fn qn_template_render(
    template: *const QnTemplate,
    variables: *const QnVariable,
    num_variables: usize,
    out: *mut QnBytes,
) -> QnBytes {
    guard(|| {
        let mut parsed = vec![];
        for variable in slice(variables, num_variables) {
            let name = text(variable.name, variable.num_name_bytes, "a variable's name")?;
            let value = text(variable.value, variable.num_value_bytes, name)?;
            parsed.push(Variable { name, text: value, kind: VariableKind::from_number(variable.kind)? });
        }
        *out = QnBytes::new((*template).0.render(&parsed)?.into_bytes());
        Ok(())
    })
}
