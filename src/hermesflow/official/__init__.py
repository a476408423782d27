"""What the released code does otherwise than the paper: one function per defect, for those who must compare with it.

A config switches them on by name (`mode`); by default none is. The code they would spoil calls them in one line each,
and docs/decisions/official/ has one page on every one.
Source: the released code of HermesFlow, as recorded in docs/decisions/0001.
"""
