from tests.support.without import block_packages

block_packages()  # before any test imports what is to be missing
