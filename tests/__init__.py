from tests.support.own_warnings import attribute_warnings_to_callers

# Before any other library can import `warnings.warn` by name.
attribute_warnings_to_callers()
