"""What an organization takes along when it goes, and how it comes in elsewhere.

`catalogue` is the one table of what there is: a resource is rows of a model by organization, with
the fields that are shown, and who takes it over. The bundle's files, their schemas, the public
register and the import are all made of it.

A bundle is imported as a whole, in one transaction, once: what was made carries the new
installation's ids, and `SwitchingImport` keeps which old id became which.
"""
