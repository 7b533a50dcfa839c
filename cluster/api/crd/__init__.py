"""Custom resources: what a CustomResourceDefinition says, and what that means for its objects.

Pure; everything is a function of a definition's JSON and an object's.

    structural   the schema as a tree; everything else reads that tree
    pruning      unknown fields out, defaults in
    instances    what a schema refuses about an object, with its path
    rules        CEL rules of a schema; `values` is what they see
    nodes        the schema as server-side apply sees it
    schemas      what Kubernetes refuses about a schema itself
    definition   defaults, validation and conditions of definitions
    versions     one served version of a definition, ready for use
    models       kinds in the published OpenAPI documents
    jsonpath     printer columns, scale and selectable fields
"""
