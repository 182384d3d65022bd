"""The invoice as a document: what it must say, its sums, its XML, its page. No Django, no I/O.

Vocabulary: EN 16931's terms (BT-… a field, BG-… a group, BR-… a rule). A *document* is an invoice
or a credit note; it is frozen from the moment it is made, and all its forms are made from it:
canonical JSON (`canonical`), CII (`cii`), UBL (`ubl`), and the page with the CII inside
(`facturx`). `rules` says what is missing and what does not add up; `validate` asks the official
schemas and Schematron.

Invariants:
- a price is per hour or per million, with its base quantity beside it (BT-149), and is never
  divided into a rounded price per second or token; a line is rounded once;
- VAT is computed for each category and rate on its total, never line by line;
- a credit note carries positive amounts and names the invoice that it corrects;
- the same document gives the same bytes.
"""
